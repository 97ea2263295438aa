"""Kills a run at chosen points of every stage, runs it again, and says whether anything was lost or left.

    python benchmarks/crash_matrix.py [--stores local s3] [--points 'before put*' …]

For each point: `kill -9` of the whole process group there, then the same command again. What must come out is
the manifest of an undisturbed run, byte for byte, with at most one shard or one epoch done twice, and after
`hemaflow gc` not one object that no manifest or record names.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

from small_runs import ROOT, copy, manifest, run, unaccounted

from hemaflow.flows.config.stages import STAGE_NAMES, StageName
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store

WRITES: dict[StageName, list[str]] = {
    "ingest": [
        "put_file stages/ingest/train-00000-of-00001.tfrecord",
        "put stages/ingest/index.npz",
        "create stages/ingest/manifest.json",
        "create stages/ingest/lease.json",
        "put runs/*#3",
    ],
    "augment": [
        "put_file stages/augment/train-*.tfrecord#2",
        "create stages/augment/parts/*#2",
        "put stages/augment/preview.png",
        "create stages/augment/manifest.json",
        "delete stages/augment/parts/*#2",
    ],
    "train": [
        "put stages/train/work/checkpoint.npz#1",
        "put stages/train/work/checkpoint.npz#2",
        "put_file stages/train/model.keras",
        "create stages/train/manifest.json",
        "delete stages/train/work/checkpoint.npz",
    ],
    "predict": [
        "put stages/predict/images-val.csv",
        "put_file stages/predict/probabilities-test-clean.npy",
        "create stages/predict/manifest.json",
        "swap stages/predict/manifest.json",
    ],
    "evaluate": [
        "put stages/evaluate/metrics.json",
        "put stages/evaluate/mistakes.npz",
        "create stages/evaluate/manifest.json",
        "swap stages/evaluate/manifest.json",
        "put stages/report/report.html",
        "create stages/report/manifest.json",
        "put reports/*/report.html",
    ],
    "submit": [
        "put_file stages/submit/submission.zip",
        "create stages/submit/manifest.json",
        "delete stages/submit/lease.json",
    ],
}
"""The writes of each stage that are cut, each before and after; `#2` is the second of its kind."""
UNIT = {"augment": "put_file stages/augment/train-*", "train": "put stages/train/work/checkpoint.npz"}
"""The writes that say that a shard or an epoch was done."""


class Bench:
    """The servers and the undisturbed run that all others are held against."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = Stack(folder / "stack")
        self.stack.start_s3(free_ports(1)[0])
        self.stack.start_prefect(free_ports(1)[0])
        os.environ.update(self.stack.environment() | {"HEMAFLOW_STAGING_DIR": str(folder / "staging")})
        self.reference = LocalStore(folder / "reference")
        self._run(self.reference, "submit", "", [])
        self.units = self._units()
        self.manifests = {stage: manifest(self.reference, stage) for stage in STAGE_NAMES}

    def crash(self, kind: str, stage: StageName, point: str) -> dict[str, object]:
        """Cut a run at a point, run it again, and look at what is there."""
        url = f"s3://{BUCKET}/{uuid.uuid4().hex}" if kind == "s3" else str(self.folder / uuid.uuid4().hex[:8])
        store = open_store(url)
        swaps = " swap " in point
        for before in STAGE_NAMES[: STAGE_NAMES.index(stage) + swaps]:
            copy(self.reference, store, before)
        # Only what is asked for with --from replaces a complete manifest.
        forced = ["--from", stage] if swaps else []
        began = time.monotonic()
        code = self._run(store, stage, point, forced)
        first = self._units()
        again = self._run(store, stage, "", [])
        second = self._units()
        seconds = time.monotonic() - began
        collect_garbage(store, grace_seconds=-60.0)
        made = manifest(store, stage)
        problems = []
        if code != -signal.SIGKILL:
            problems.append(f"not killed ({code})")
        if again != 0:
            problems.append(f"second run ended with {again}")
        if made is None or made.digest != self.manifests[stage].digest:  # type: ignore[union-attr]
            problems.append("another manifest")
        if verify(store, deep=True)[0]:
            problems.append("damaged objects")
        if left := unaccounted(store):
            problems.append(f"{len(left)} objects left: {left[0]}")
        repeated = max(first[unit] + second[unit] - self.units[unit] for unit in UNIT) if not swaps else 0
        if repeated > 1:
            problems.append(f"{repeated} units repeated")
        return {
            "repeated": max(repeated, 0),
            "verdict": "; ".join(problems) or "same",
            "seconds": round(seconds, 1),
        }

    def _run(self, store: Store, until: str, point: str, forced: list[str]) -> int:
        self.trace = self.folder / "trace"
        self.trace.write_text("")
        environment = {
            # The checkout as well: what is imported as Python starts must come from here, too.
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "crashing"), str(ROOT)]),
            "CRASH_TRACE": str(self.trace),
            "CRASH_AT": point,
            "CRASH_STORE": store.url,
        }
        return run(store, "--until", until, *forced, environment=environment).code

    def _units(self) -> Counter[str]:
        lines = self.trace.read_text().splitlines()
        return Counter(
            {
                unit: sum(fnmatch.fnmatchcase(line, f"before {pattern}") for line in lines)
                for unit, pattern in UNIT.items()
            }
        )


def main() -> int:
    """Print a row for each point and store; return 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stores", nargs="+", choices=["local", "s3"], default=["local", "s3"])
    parser.add_argument("--points", nargs="+", default=["*"], help="only the points that match one of these")
    arguments = parser.parse_args()
    points = [
        (stage, f"{when} {write}")
        for stage, writes in WRITES.items()
        for write in writes
        for when in ("before", "after")
        if any(fnmatch.fnmatchcase(f"{when} {write}", pattern) for pattern in arguments.points)
    ]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            print(f"{'store':<6} {'stage':<9} {'killed':<62} {'repeated':>8} {'s':>6}  result")
            for kind in arguments.stores:
                for stage, point in points:
                    row = bench.crash(kind, stage, point)
                    wrong += row["verdict"] != "same"
                    print(
                        f"{kind:<6} {stage:<9} {point:<62} {row['repeated']:>8} {row['seconds']:>6}  "
                        f"{row['verdict']}",
                        flush=True,
                    )
        finally:
            bench.stack.down()
    print(f"{len(points) * len(arguments.stores)} kills, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
