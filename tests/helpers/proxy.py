"""A proxy between a client and a real HTTP server that misbehaves at will."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3

RESET, BUSY, SLOW, STALLED, TRUNCATED = "reset", "503", "slow", "stalled", "truncated"
LOST_ANSWER, ALTERED = "lost answer", "altered"
FAULTS = (RESET, BUSY, SLOW, STALLED, TRUNCATED, LOST_ANSWER, ALTERED)
CONDITIONS = ("if-none-match", "if-match")


class Proxy:
    """What the proxy is told to do, and what passed through it.

    Attributes:
        fault: One of FAULTS, or "" for none.
        share: The share of requests that meet it.
        ignores_conditions: Whether If-None-Match and If-Match are dropped on their way.
        requests: How many requests of each kind came, those that failed included.
        puts: How many PUTs came for each last part of a name.
        faults: How many of them met the fault.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target = urllib.parse.urlsplit(target)
        self.fault, self.share, self.ignores_conditions = "", 0.0, False
        self.requests: Counter[str] = Counter()
        self.puts: Counter[str] = Counter()
        self.faults = 0
        self.slow_seconds, self.stall_seconds = 0.2, 1.5
        self._random, self._lock = random.Random(seed), threading.Lock()

    def strikes(self, request: str, path: str) -> str:
        """Count a request and return the fault that it meets."""
        with self._lock:
            self.requests[request] += 1
            if request == "PUT":
                self.puts[path.split("?")[0].rpartition("/")[2]] += 1
            if not self.fault or self._random.random() >= self.share:
                return ""
            self.faults += 1
            return self.fault


@contextmanager
def misbehaving(target: str, seed: int = 0) -> Iterator[tuple[Proxy, str]]:
    """Run a proxy in front of a server; give it and its address."""
    proxy = Proxy(target, seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            fault = proxy.strikes(self.command, self.path)
            if fault == RESET:
                return self._reset()
            if fault == BUSY:
                return self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            headers = {
                name: value
                for name, value in self.headers.items()
                if not (proxy.ignores_conditions and name.lower() in CONDITIONS)
            }
            if self.command == "PUT" and len(headers) < len(self.headers):
                return self._answer(200, {"ETag": self._put_anyway(body)}, b"")
            connection = HTTPConnection(proxy.target.hostname or "", proxy.target.port)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content, said = answer.read(), dict(answer.getheaders())
            connection.close()
            if fault == LOST_ANSWER:
                return self._reset()
            if fault == ALTERED and content and self._is_read_of_an_object:
                content = bytes([content[0] ^ 1]) + content[1:]
            self._answer(answer.status, said, content, fault)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: str = "") -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            half = len(content) // 2
            self.wfile.write(content[:half] if fault in (SLOW, TRUNCATED, STALLED) else content)
            if fault == SLOW:
                self.wfile.flush()
                time.sleep(proxy.slow_seconds)
                self.wfile.write(content[half:])
            elif fault == TRUNCATED:
                self.close_connection = True
            elif fault == STALLED:
                self.wfile.flush()
                time.sleep(proxy.stall_seconds)
                self.close_connection = True

        @property
        def _is_read_of_an_object(self) -> bool:
            """Whether the answer is content: that of a listing cannot be told from another one."""
            return self.command == "GET" and "?" not in self.path.replace("?x-id=GetObject", "")

        def _put_anyway(self, body: bytes) -> str:
            """Write without the condition, which the signature covers: the request is signed anew."""
            bucket, _, key = urllib.parse.unquote(self.path.split("?")[0]).strip("/").partition("/")
            client = boto3.session.Session().client("s3", endpoint_url=proxy.target.geturl())
            return str(client.put_object(Bucket=bucket, Key=key, Body=body)["ETag"])

        def _reset(self) -> None:
            """End the connection as a failing machine would, with RST instead of FIN."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Say nothing of clients that went away."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
