"""The servers of `hemaflow stack`, started and ended by the command itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from hemaflow.infra.deploy.stack import LOOPBACK, Stack, free_ports
from hemaflow.infra.errors import StoreError

pytestmark = pytest.mark.slow


def stack(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PREFECT_"))}
    return subprocess.run(
        [sys.executable, "-m", "hemaflow", "stack", *arguments, "--folder", str(folder)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def environment(folder: Path) -> dict[str, str]:
    lines = stack(folder, "env").stdout.splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def test_up_and_down(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    assert stack(folder, "status").returncode == 3
    s3_port, prefect_port = free_ports(2)
    ports = ("--s3-port", str(s3_port), "--prefect-port", str(prefect_port))
    try:
        up = stack(folder, "up", *ports)
        assert up.returncode == 0, up.stderr
        assert up.stdout.count("running") == 2
        found = environment(folder)
        with urllib.request.urlopen(f"{found['PREFECT_API_URL']}/health", timeout=10) as answer:  # noqa: S310
            assert answer.status == 200
        opened = "from hemaflow.infra.store.open import open_store; store = open_store('s3://hemaflow/x'); "
        put = opened + "store.create('a', b'kept')"
        subprocess.run([sys.executable, "-c", put], env=os.environ | found, check=True, timeout=60)
        before = Stack(folder).status()
        assert stack(folder, "up", *ports).returncode == 0  # what runs is left alone
        assert Stack(folder).status() == before
        secret = found["AWS_SECRET_ACCESS_KEY"]
        readable = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        assert not [path for path in readable if secret.encode() in path.read_bytes()]
        pids = [service.pid for service in before if service.pid]
        assert stack(folder, "down").returncode == 0
        assert not [pid for pid in pids if psutil.pid_exists(pid)]
        assert stack(folder, "status").returncode == 3
        assert stack(folder, "down").returncode == 0
        again = Stack(folder)
        again.start_s3(s3_port)
        get = opened + "assert store.get('a') == b'kept'"
        subprocess.run([sys.executable, "-c", get], env=os.environ | found, check=True, timeout=60)
        again.down()
    finally:
        stack(folder, "down")


def test_a_taken_port_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        with pytest.raises(StoreError, match="another program listens on port") as raised:
            Stack(tmp_path).start_s3(taken.getsockname()[1])
    assert "--s3-port" in str(raised.value)
    assert Stack(tmp_path).status() == []
