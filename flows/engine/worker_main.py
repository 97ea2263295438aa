"""The program of a worker process: `python -m hemaflow.flows.engine.worker_main CONNECTION LIFELINE`.

CONNECTION is the descriptor of a socket: jobs come in, results, progress and log records go out. LIFELINE is
the descriptor of a pipe that closes when the parent is gone, however it ended.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from hemaflow.flows.engine.worker_process import STOP_SECONDS, Job, Preload
from hemaflow.infra.errors import HemaflowError, Interrupted, StageError
from hemaflow.tasks.core.keras_import import reset_keras


class ParentPipe(logging.Handler):
    """The way back to the parent, for results, progress and log records, from any thread."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection, self._sending = connection, threading.Lock()
        self.setFormatter(logging.Formatter("%(message)s"))

    def send(self, kind: str, content: object) -> None:
        """Send one message."""
        with self._sending:
            self._connection.send((kind, content))

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record."""
        self.send("log", (record.levelno, self.format(record)))


def serve(connection: Connection) -> None:
    """Do the jobs that come over the connection until it closes."""
    # Packages that only the parent's path names are found last: none of them can hide an installed one.
    sys.path += [entry for entry in connection.recv() if entry and entry not in sys.path]
    pipe = ParentPipe(connection)
    logging.getLogger("hemaflow").addHandler(pipe)
    while True:
        try:
            job: Job | Preload = connection.recv()
        except EOFError:
            return
        if isinstance(job, Preload):
            with suppress(Exception):  # the job that needs it fails with the same error, and reports it
                job.run()
            continue
        reset_keras()
        try:
            result = job.run(lambda *content: pipe.send("progress", content))
        except HemaflowError as error:
            pipe.send("error", error)
            if isinstance(error, Interrupted):
                return  # it was asked to end, and kept what the next run needs
        except Exception as error:
            # A defect of ours, not a mistake of the user: whoever repairs it needs the stack trace.
            failure = StageError(
                f"{job.inputs.stage} failed: {type(error).__name__}: {error}",
                received=traceback.format_exc(),
                where=f"{job.module}.{job.function}",
                remedy="What was complete is kept: the same command continues from there.",
            )
            pipe.send("error", failure)
        else:
            pipe.send("done", result)


def main() -> None:
    """Serve the parent that started this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection, lifeline = int(sys.argv[1]), int(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    serve(Connection(connection))


def _end_with_parent(lifeline: int) -> None:
    """End this process when its parent is gone, after giving training the time to keep a checkpoint."""
    os.read(lifeline, 1)  # returns when the parent's end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
