"""Ends the process of a flow whose worker is gone, or whose run is to be cancelled.

Prefect's worker delivers a cancellation itself, and stops its runs when it stops in order. A killed worker
does neither, and nobody delivers cancellations to a flow that was called from a shell. So the process checks
by itself and sends itself SIGTERM, which lets a training keep a checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled

LOOK_SECONDS = 1.0
"""Interval between checks for the parent process."""
ASK_SECONDS = 4.0
"""Interval between requests for the state of the run: a cancellation is to take effect in 15 seconds."""
GRACE_SECONDS = 5.0
"""Time for the worker to deliver a cancellation first."""

log = logging.getLogger(__name__)


@contextmanager
def supervised() -> Iterator[None]:
    """Supervise the run of a flow that happens inside."""
    ended, cancelled = threading.Event(), threading.Event()
    run_id = UUID(str(flow_run.id))
    under_worker = "PREFECT__FLOW_RUN_ID" in os.environ
    parent = os.getppid()

    def end() -> None:
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def watch_parent() -> None:
        while not ended.wait(LOOK_SECONDS):
            if os.getppid() != parent:
                end()
                # Log last: stdout is a broken pipe once the worker is gone.
                log.warning("the worker of this run is gone: ending")
                return

    def watch_state() -> None:
        while not ended.wait(ASK_SECONDS):
            if _is_cancelling(run_id):
                cancelled.set()
                ended.wait(GRACE_SECONDS if under_worker else 0.0)
                end()
                return

    # Threads of their own: a server that does not answer must not keep the other from looking. In this
    # context: the address of a run's own server stands in it, and without one Prefect starts another server.
    for watch in (watch_state, *([watch_parent] if under_worker else [])):
        thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True, name="supervision")
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if cancelled.is_set():
            _close(run_id)


def _is_cancelling(run_id: UUID) -> bool:
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except Exception as error:  # the server may be away for a while
        log.info("the state of this run could not be read: %s", type(error).__name__)
        return False
    return state is not None and state.is_cancelling()


def _close(run_id: UUID) -> None:
    """Set the state Cancelled: after a signal, Prefect's engine would set Crashed."""
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Cancelled(), force=True)
    except Exception as error:
        log.warning("the run could not be marked as cancelled: %s", type(error).__name__)
