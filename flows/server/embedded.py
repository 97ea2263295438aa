"""Runs a flow in the process of a command: with a Prefect server, and with the terminal as observer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hemaflow.flows.engine.observer import WatchedRun


@contextmanager
def prefect_watched_by(watched: WatchedRun) -> Iterator[None]:
    """Provide a Prefect server and an observer, which prints what Prefect would print."""
    if os.environ.get("PREFECT_API_URL"):  # its pages show the log
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    else:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Prefect's own 20 seconds are not enough for its server to start on a busy machine.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    from hemaflow.flows.engine.observer import watched_run
    from hemaflow.flows.server.temporary_server import prefect_server

    token = watched_run.set(watched)
    try:
        with prefect_server():
            yield
    finally:
        watched_run.reset(token)
