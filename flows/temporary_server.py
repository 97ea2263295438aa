"""The Prefect server that a flow starts for itself where none was set up, and how it ends.

Prefect stops it at the interpreter's exit, which a killed process never comes to: it would go on for ever.
"""

from __future__ import annotations

import subprocess
import sys

from prefect.server.api.server import SubprocessASGIServer

_WATCH = """
import os, signal, sys
sys.stdin.buffer.read()  # ends when the process that holds the other end is gone, however it went
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
"""
_watchers: dict[int, subprocess.Popen[bytes]] = {}


def end_it_with_this_process() -> None:
    """Have a small process wait for the end of this one, and then end the server, if there is one."""
    for server in SubprocessASGIServer._instances.values():
        process = server.server_process
        if process is not None and process.pid not in _watchers:
            _watchers[process.pid] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCH, str(process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # the keyboard's interrupt is not for it
            )
