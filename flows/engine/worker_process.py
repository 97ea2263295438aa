"""Child processes that do the work of stages, so that the flow's own process never loads TensorFlow.

A `Worker` is one spawned process (never forked: TensorFlow does not survive that) that does one `Job` after
another. It opens the store itself, reports progress over a pipe, and stops when its parent is gone.
`WorkerPool` lends workers to the threads that write shards.

A worker ignores the keyboard's interrupt: the parent gets it, and ends the worker with SIGTERM, which lets
training keep a checkpoint first. What this project logs in a worker goes to the parent's logger; what
libraries print there goes to a temporary file, of which an error shows the end: a run's own output stays
readable.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from hemaflow.infra.errors import HemaflowError, Interrupted, StageError
from hemaflow.infra.results.draft import Draft, Progress, silent
from hemaflow.infra.results.fingerprint import code_fingerprint
from hemaflow.infra.results.manifest import KeyInputs, Manifest, StoredObject
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.core.stage import Parents, StageConfig

STOP_SECONDS = 60.0
"""How long a worker may take to keep a checkpoint after SIGTERM before it is killed."""
POLL_SECONDS = 0.5
"""How often a waiting parent looks at its deadline and at the worker's life."""
TAIL_BYTES = 2000
"""How much of what a worker printed is shown when it died."""
LOGGED = "hemaflow"
"""The package whose log records are sent to the parent."""

Log = Callable[[int, str], None]
"""Called with the level and the text of a log record."""


def unheard(level: int, text: str) -> None:
    """Log to nobody."""


@dataclass(frozen=True)
class Job:
    """One call of a stage's function in a worker: `function(parents, config, draft, *arguments)`."""

    module: str
    function: str
    store_url: str
    data: str
    manifests: dict[str, Manifest]
    config: StageConfig
    inputs: KeyInputs
    replaces: str = ""
    arguments: tuple[Any, ...] = ()

    def run(self, progress: Progress) -> Manifest | StoredObject:
        """Do the job in this process. Raises StageError where the code is no longer that of the key."""
        store = open_store(self.store_url)
        parents = Parents(store, self.manifests, self.data)
        draft = Draft(store, self.inputs, progress, self.replaces)
        function = getattr(importlib.import_module(self.module), self.function)
        if self.inputs.code and self.inputs.code != code_fingerprint(self.module):
            raise StageError(
                f"The code of {self.inputs.stage} was changed since the run began: its result would be "
                "kept under the key of the former code.",
                remedy="Run the same command again.",
            )
        result: Manifest | StoredObject = function(parents, self.config, draft, *self.arguments)
        return result


class Worker:
    """One spawned process that does jobs, one at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._said = tempfile.NamedTemporaryFile(prefix="hemaflow-", suffix=".log")
        self._process = context.Process(target=_serve, args=(theirs, self._said.name), daemon=True)
        self._process.start()
        theirs.close()

    def do(
        self, job: Job, timeout_seconds: float, progress: Progress = silent, log: Log = unheard
    ) -> Manifest | StoredObject:
        """Do a job and return its result; raise what it raised.

        Raises:
            StageError: The worker died, took too long, or hit an error that hemaflow does not know.
        """
        deadline = time.monotonic() + timeout_seconds
        self._connection.send(job)
        while True:
            wait([self._connection, self._process.sentinel], timeout=POLL_SECONDS)
            if self._connection.poll():
                try:
                    kind, content = self._connection.recv()
                except (EOFError, ConnectionResetError):
                    raise self._died(job) from None
                if kind == "progress":
                    progress(*content)
                elif kind == "log":
                    log(*content)
                elif kind == "done":
                    result: Manifest | StoredObject = content
                    return result
                else:
                    raise content
            elif not self._process.is_alive():
                raise self._died(job)
            if time.monotonic() > deadline:
                self.stop()
                raise StageError(
                    f"{job.inputs.stage} took longer than {timeout_seconds:.0f} seconds and was stopped.",
                    remedy="Give it longer with HEMAFLOW_STAGE_TIMEOUT_SECONDS; the same command goes on.",
                )

    def stop(self) -> None:
        """End the process: ask, wait for a checkpoint to be kept, then kill."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._said.close()

    def _died(self, job: Job) -> StageError:
        self._process.join(POLL_SECONDS)
        code = self._process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = " The kernel does this when memory runs out." if code == -signal.SIGKILL else ""
        self._said.seek(max(0, os.fstat(self._said.fileno()).st_size - TAIL_BYTES))
        said = self._said.read().decode(errors="replace").strip()
        return StageError(
            f"The process that did {job.inputs.stage} ended with {cause}.{hint}",
            received=f"the last it said:\n{said}" if said else "",
            remedy="Run the same command again: it goes on from what is complete.",
        )


class WorkerPool:
    """Workers lent to threads, started when first needed."""

    def __init__(self, num_workers: int) -> None:
        self._idle: queue.Queue[Worker | None] = queue.Queue()
        for _ in range(num_workers):
            self._idle.put(None)
        self._started: list[Worker] = []
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        """Lend a worker; one that raised is replaced, since its state is not known."""
        worker = self._idle.get()
        try:
            with self._lock:
                if self._stopped:
                    raise StageError("The run was stopped.")
                if worker is None:
                    worker = Worker()
                    self._started.append(worker)
            yield worker
        except BaseException:
            if worker is not None:
                worker.stop()
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            self._stopped = True
            for worker in self._started:
                worker.stop()


class _Pipe(logging.Handler):
    """The way back to the parent, for results, progress and log records, from whatever thread."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection, self._sending = connection, threading.Lock()
        self.setFormatter(logging.Formatter("%(message)s"))

    def send(self, kind: str, content: object) -> None:
        with self._sending:
            self._connection.send((kind, content))

    def emit(self, record: logging.LogRecord) -> None:
        self.send("log", (record.levelno, self.format(record)))


def _serve(connection: Connection, said: str) -> None:
    """Do the jobs that come over the pipe until it closes. Runs in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(said, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    pipe = _Pipe(connection)
    logging.getLogger(LOGGED).addHandler(pipe)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        try:
            result = job.run(lambda *content: pipe.send("progress", content))
        except HemaflowError as error:
            pipe.send("error", error)
            if isinstance(error, Interrupted):
                return  # it was asked to end, and did what it had to before
        except Exception as error:
            # A mistake of ours, not of the user: whoever repairs it needs the stack trace.
            failure = StageError(
                f"{job.inputs.stage} failed: {type(error).__name__}: {error}",
                received=traceback.format_exc(),
                where=f"{job.module}.{job.function}",
                remedy="What was complete is kept: the same command goes on from there.",
            )
            pipe.send("error", failure)
        else:
            pipe.send("done", result)


def _end_with_parent() -> None:
    """End this process when its parent is gone, after giving training the time to keep a checkpoint."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
