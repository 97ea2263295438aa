"""Worker processes: they do the work of stages, so that the process of the flow never loads TensorFlow.

A `Worker` is one process that does one `Job` after another. It is a program of ours
(`python -m hemaflow.flows.engine.worker_main`), started afresh: it is never forked (TensorFlow does not
survive a fork), and it never imports the caller's main module, so a script or a notebook needs no guard.
`StageWorker` is one worker that a run keeps from stage to stage; `WorkerPool` lends workers to the threads
that wait for the parts of a stage.

The keyboard interrupt reaches the parent only. It ends the worker with SIGTERM, which lets training keep a
checkpoint. Log records of hemaflow go to the parent's logger; everything else that a worker prints goes to a
temporary file, whose end an error shows.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from hemaflow.infra.errors import StageError
from hemaflow.infra.results.draft import Draft, Progress, silent
from hemaflow.infra.results.fingerprint import ROOT, code_fingerprint, words
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.core.stage import Parents, StageConfig

PROGRAM = "hemaflow.flows.engine.worker_main"
"""The module that a worker process runs."""
STOP_SECONDS = 60.0
"""How long a worker may take to keep a checkpoint after SIGTERM before it is killed."""
POLL_SECONDS = 0.5
"""How often a waiting parent looks at its deadline."""
TAIL_BYTES = 2000
"""How much of a dead worker's output an error shows."""

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "OMP_NUM_THREADS")
"""Variables by which TensorFlow (two), JAX and OpenMP are told how many threads to compute with."""
SHARD_ENVIRONMENT = {**dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": "-1"}
"""Variables of workers that make parts: they run side by side, with one thread each and without a GPU."""

Log = Callable[[int, str], None]
"""Called with the level and the text of a log record."""


def discard(level: int, text: str) -> None:
    """Drop a log record."""


@dataclass(frozen=True)
class Job:
    """One call of a function in a worker: `function(parents, config, draft, *arguments)`."""

    module: str
    function: str
    store_url: str
    data: str
    manifests: dict[str, Manifest]
    config: StageConfig
    inputs: KeyInputs
    replaces: str = ""
    arguments: tuple[object, ...] = ()

    def run(self, progress: Progress) -> object:
        """Do the job in this process. Raises StageError if the code is no longer the code of the key."""
        store = open_store(self.store_url)
        parents = Parents(store, self.manifests, self.data)
        draft = Draft(store, self.inputs, progress, self.replaces)
        function = getattr(importlib.import_module(self.module), self.function)
        names = words(self.inputs.config).union(self.inputs.names)
        if self.inputs.code and self.inputs.code != code_fingerprint(self.module, names):
            raise StageError(
                f"The code of {self.inputs.stage} changed after the run began: its result would be kept "
                "under the key of the former code.",
                remedy="Run the same command again.",
            )
        result: object = function(parents, self.config, draft, *self.arguments)
        return result


@dataclass(frozen=True)
class Preload:
    """A request to import modules before the job that needs them: it has no result.

    Attributes:
        functions: Names of functions without arguments, each with its module: `package.module.function`.
    """

    functions: tuple[str, ...]

    def run(self) -> None:
        """Call the functions in this process."""
        for name in self.functions:
            module, _, function = name.rpartition(".")
            getattr(importlib.import_module(module), function)()


class Worker:
    """One process that does jobs, one at a time.

    Args:
        environment: Variables of the process, beside those of this one.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._output = tempfile.NamedTemporaryFile(prefix="hemaflow-", suffix=".log")
        with theirs:
            # -P: neither the working folder nor the caller's script decides what the worker imports.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno()), str(lifeline)],
                pass_fds=(theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=_environment() | dict(environment or {}),
            )
        os.close(lifeline)
        self._connection = Connection(ours.detach())
        self._connection.send(sys.path)

    def preload(self, *functions: str) -> None:
        """Have the idle process call functions that import what its next job needs; do not wait for it."""
        with suppress(OSError):  # the process died: the next job says why
            self._connection.send(Preload(functions))

    def do(self, job: Job, timeout_seconds: float, progress: Progress = silent, log: Log = discard) -> object:
        """Do a job and return its result; raise what it raised.

        Raises:
            StageError: The worker died, took too long, or failed with an error that is not ours.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            self._connection.send(job)
            while True:
                if self._connection.poll(POLL_SECONDS):
                    kind, content = self._connection.recv()
                    if kind == "progress":
                        progress(*content)
                    elif kind == "log":
                        log(*content)
                    elif kind == "done":
                        return content
                    else:
                        raise content
                if time.monotonic() > deadline:
                    self.stop()
                    raise StageError(
                        f"{job.inputs.stage} took longer than {timeout_seconds:.0f} seconds and was stopped.",
                        remedy="Raise HEMAFLOW_STAGE_TIMEOUT_SECONDS and run the same command: it continues.",
                    )
        except (EOFError, ConnectionError):
            raise self._death(job) from None

    def stop(self) -> None:
        """End the process: ask, wait until a checkpoint is kept, then kill."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._connection.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._output.close()

    def _death(self, job: Job) -> StageError:
        """Return the error for a worker that ended while it had a job."""
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = " The kernel does this when memory runs out." if code == -signal.SIGKILL else ""
        output = Path(self._output.name).read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        return StageError(
            f"The process that did {job.inputs.stage} ended with {cause}.{hint}",
            received=f"its last output:\n{output}" if output else "",
            remedy="Run the same command again: it continues from what is complete.",
        )


class StageWorker:
    """One worker that is kept from job to job, so that Keras is loaded once. Use as a context manager."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> StageWorker:
        """Start nothing: the process starts with the first job."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process for good."""
        self._stopped = True
        self.release()

    def make(
        self, job: Job, timeout_seconds: float, progress: Progress = silent, log: Log = discard
    ) -> Manifest:
        """Do a job that completes a result; after a failure the next job gets a new process.

        Raises:
            StageError: The job did not end with a commit, or see `Worker.do`.
        """
        result = self.do(job, timeout_seconds, progress, log)
        if not isinstance(result, Manifest):
            raise StageError(f"{job.inputs.stage} did not end with a commit.", received=type(result).__name__)
        return result

    def do(self, job: Job, timeout_seconds: float, progress: Progress = silent, log: Log = discard) -> object:
        """Do a job; after a failure the next job gets a new process. Raises as `Worker.do`."""
        with self._lock:
            if self._stopped:
                raise StageError("The run was stopped.")
            self._worker = worker = self._worker or Worker()
        try:
            return worker.do(job, timeout_seconds, progress, log)
        except BaseException:
            self.release()
            raise

    def preload(self, *functions: str) -> None:
        """Have the process import what its next job needs while it has no job. See `Worker.preload`."""
        with self._lock:
            if not self._stopped:
                self._worker = self._worker or Worker()
                self._worker.preload(*functions)

    def release(self) -> None:
        """End the process and give back its memory and its accelerator; the next job starts another."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()


class WorkerPool:
    """Workers that make the parts of stages, lent to threads and started when first needed.

    Args:
        num_workers: The most processes that run at once.
    """

    def __init__(self, num_workers: int) -> None:
        # Last in, first out: a worker that has loaded its libraries is lent before another one is started.
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
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
                    worker = Worker(SHARD_ENVIRONMENT)
                    self._started.append(worker)
            yield worker
        except BaseException:
            if worker is not None:
                worker.stop()
            worker = None
            raise
        finally:
            self._idle.put(worker)

    def preload(self, *functions: str) -> None:
        """Have one worker import what its first job needs, before there is one. See `Worker.preload`."""
        with self.lend() as worker:
            worker.preload(*functions)

    def release(self) -> None:
        """End the workers that are not lent, and give back their memory; the next loan starts others."""
        with suppress(queue.Empty), self._lock:
            idle = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
            for worker in idle:
                if worker is not None:
                    self._started.remove(worker)
                    worker.stop()
                self._idle.put(None)

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            self._stopped = True
            for worker in self._started:
                worker.stop()


def _environment() -> dict[str, str]:
    """Return the environment of a worker: it imports the same hemaflow as this process.

    It computes with HEMAFLOW_WORKERS threads, unless the variables of the libraries say otherwise.
    """
    folder = str(ROOT.absolute().parent)
    paths = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    threads = dict.fromkeys(THREADS, str(current_settings().workers))
    return {**threads, **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
