"""A temporary Prefect server for a run, if none is set up.

Prefect would start one as well, but in our process group, where Ctrl-C ends it before the flow can report the
interruption; and would stop it at the interpreter's exit, which a killed process never reaches.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from hemaflow.infra.errors import ConfigError, StageError

_KEEPER = """
import sys
from prefect.server.api.server import SubprocessASGIServer
with SubprocessASGIServer() as server:
    print(server.api_url, flush=True)
    sys.stdin.buffer.read()  # returns when the process at the other end is gone, however it ended
"""


@contextmanager
def prefect_server() -> Iterator[None]:
    """Provide a Prefect server: the one that is set up, else a temporary one.

    Raises:
        ConfigError: The server that is set up does not answer.
        StageError: The temporary server did not start.
    """
    url = get_current_settings().api.url
    if url:
        _require_answer(url)
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", _KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as keeper:
        url = keeper.stdout.readline().strip() if keeper.stdout else ""
        if not url:
            raise StageError(
                "Prefect's server did not start.",
                received=f"exit code {keeper.wait()}",
                remedy="Start one by `prefect server start`, and set PREFECT_API_URL to its address.",
            )
        with temporary_settings({PREFECT_API_URL: url}):
            yield


def _require_answer(url: str) -> None:
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ConfigError(
            "The Prefect server does not answer.",
            received=type(problem).__name__,
            where=url,
            remedy="Start it, or run without one: unset PREFECT_API_URL, or choose another Prefect profile.",
        )
