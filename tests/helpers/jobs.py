"""Work for the workers that test_worker_process.py starts."""

from __future__ import annotations

import os
import signal
import time

from hemaflow.infra.errors import DataError, Interrupted
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.stage import Parents, StageConfig


def commit(parents: Parents, config: StageConfig, draft: Draft, text: str) -> Manifest:
    draft.progress(1, 2, "half")
    draft.put("text", text.encode())
    draft.progress(2, 2, "all")
    return draft.commit(pid=os.getpid())


def prepare() -> None:
    os.environ["PREPARED"] = "yes"


def fail_to_prepare() -> None:
    raise ImportError("a library is absent")


def variables(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    wanted = ("PREPARED", "TF_NUM_INTRAOP_THREADS", "CUDA_VISIBLE_DEVICES")
    return draft.commit(**{name: os.environ.get(name, "") for name in wanted})


def mistake(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    raise DataError("No images.", where="row 3", remedy="Give some.")


def bug(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    raise ZeroDivisionError("by nought")


def die(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def sleep(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    draft.keep("pid", str(os.getpid()).encode())
    time.sleep(120)
    raise AssertionError


def sleep_and_keep(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    def keep(*_: object) -> None:
        draft.keep("checkpoint", b"kept")
        raise Interrupted("Asked to stop.")

    signal.signal(signal.SIGTERM, keep)
    return sleep(parents, config, draft)
