"""The command `hemaflow` in processes of its own, as a person starts, watches and kills it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.train import checkpoint

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["ingest", "augment", "train", "predict", "evaluate", "report", "submit"]
SMALL = [
    "--set", "ingest.image_size_pixels=32",
    "--set", "augment.shard_bytes=60000",
    "--set", "train.input_size_pixels=32",
    "--set", "train.fine_tuning.epochs=6",
    "--set", "train.batch_size=8",
    "--set", "evaluate.bootstrap_resamples=50",
    "--set", "evaluate.robustness_images=24",
]  # fmt: skip
"""The demo with small pictures: twenty of each class give 13 shards, and 6 epochs of 28 steps."""
NUM_SHARDS = 13

MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, wherever the tests were started
from hemaflow.flows.cli.main import main
try:
    main()
finally:
    loaded = {"tensorflow", "keras", "prefect"} & sys.modules.keys()
    print("imported:", *sorted(loaded), file=sys.stderr)
"""


COMMAND_SECONDS = 900
"""The most that a command may take, on any machine that tests run on: 20 to 60 on two quiet cores."""


class Done(NamedTuple):
    code: int
    document: dict[str, Any]
    err: str

    @property
    def states(self) -> str:
        """The states in order of the stages: r for ran, - for reused."""
        return "".join("r" if stage["state"] == "ran" else "-" for stage in self.document["stages"])


class Whole(NamedTuple):
    """A run of the command that nothing disturbed, and the store that it wrote."""

    store: LocalStore
    done: Done


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a shell gives it
    )


def run(environment: dict[str, str], store: Store, *changes: str) -> Done:
    return ended(start(environment, *command(store, *changes)))


def command(store: Store, *changes: str) -> list[str]:
    return ["run", "--store", store.url, "--json", *SMALL, *changes]


def ended(process: subprocess.Popen[str]) -> Done:
    try:
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        pytest.fail(f"not ended after {COMMAND_SECONDS} s; the last it said: {err[-2000:]}")
    return Done(process.returncode, json.loads(out) if out else {}, err)


def digests(store: Store, done: Done) -> dict[str, str]:
    found = {}
    for stage in done.document["stages"]:
        loaded = load_manifest(store, stage["stage"], stage["key"])
        assert loaded
        found[stage["stage"]] = loaded[0].digest
    return found


def fact(store: Store, done: Done, stage: str, name: str) -> Any:
    record = next(record for record in done.document["stages"] if record["stage"] == stage)
    loaded = load_manifest(store, stage, record["key"])
    assert loaded
    return loaded[0].facts[name]


def marked(environment: dict[str, str]) -> tuple[dict[str, str], Callable[[], list[int]]]:
    """Return an environment with a mark, and a function that finds the living processes that bear it."""
    mark = f"HEMAFLOW_TEST_MARK={uuid.uuid4()}"
    name, _, value = mark.partition("=")

    def living() -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not zombie and mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except (OSError, ValueError):
                continue
        return found

    return {**environment, name: value}, living


def until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(living: Callable[[], Sequence[int]], seconds: float = 90.0) -> bool:
    deadline = time.monotonic() + seconds
    while living() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not living()


def optimizer_steps(store: Store) -> int:
    """Return how many steps of a training that goes on are in its checkpoint."""
    for name in store.list("stages/train/"):
        if name.endswith("/work/checkpoint.npz") and (kept := store.get_tagged(name)):
            return checkpoint.unpack(kept[0])[0].optimizer_steps
    return 0


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)
