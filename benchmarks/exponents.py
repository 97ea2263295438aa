"""Fit how the time of each stage and command grows with the number of images: time = fixed + c · N^exponent.

Draws images (benchmarks/drawn_images.py) in four sizes, times each function, stage and command on each, and
prints one line each: the exponent (slope of log time against log N, without the fixed cost, which is the time
at 100 images), the fixed seconds, and the microseconds that each image adds. Times are CPU seconds of the
process and its children, so that other work on the machine hardly counts. "flat" is what grows by less than a
fifth of its fixed cost. Exits with 1 where an exponent is above 1.1; the search for near duplicates may have
1.5. benchmarks/scan.py measures how listing and hashing a source grow.

    python benchmarks/exponents.py
    python benchmarks/exponents.py --only commands --sizes 2000 4000 8000 16000
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from drawn_images import make
from near_duplicates import drawn

from hemaflow.infra.settings import current_settings
from hemaflow.tasks.ingest.cleaning import Hashed, clean
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.near_duplicates import near_groups
from hemaflow.tasks.ingest.splitting import split_fold, split_groups
from hemaflow.tasks.sources.registry import open_source

MOST = 1.1
STEEPER = {"near duplicates": 1.5, "clean": 1.5}
"""What the search for near duplicates dominates: 1.3 by its method, more where hashes outgrow the cache."""
FIXED_IMAGES = 100
SIZES = {"functions": (10_000, 20_000, 40_000, 80_000), "commands": (1000, 2000, 4000, 8000)}
"""Numbers of images: functions that take milliseconds need more of them."""
SIZE_PIXELS = 16
BITS = IngestConfig().near_duplicate_bits
STAGES = ("ingest", "augment", "train", "predict", "evaluate", "submit")
CHANGES = (
    f"ingest.image_size_pixels={SIZE_PIXELS}",
    f"train.input_size_pixels={SIZE_PIXELS}",
    "train.fine_tuning.epochs=1",
    "evaluate.robustness=none",
)
"""The demo with small images and one epoch; all stages see every image."""

Timed = Mapping[str, Callable[[], object]]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def functions(folder: Path, num: int) -> Timed:
    """Return what ingest does beside decoding, on so many images."""
    make(folder / "cells.zip", num, size=SIZE_PIXELS)
    hashes = drawn(num, copied=0.01)
    pictures = [
        Hashed(f"class_{k % 8}/{k:08}.jpg", f"class_{k % 8}", "", f"{k:064x}", hashes[k]) for k in range(num)
    ]
    labels, groups = [k % 8 for k in range(num)], near_groups(hashes, BITS)

    def scan() -> None:
        with open_source(str(folder / "cells.zip"), current_settings()) as source:
            source.scan()

    return {
        "scan a zip": scan,
        "near duplicates": partial(near_groups, hashes, BITS),
        "clean": partial(clean, pictures, contaminant_copies=20, near_duplicate_bits=BITS),
        "split": partial(split_groups, labels, groups, val_share=0.15, test_share=0.15, seed=0),
        "split into folds": partial(split_fold, labels, groups, num_folds=5, fold=0, val_share=0.1, seed=0),
    }


def commands(folder: Path, num: int) -> Timed:
    """Return the stages, each as a command that reuses those before it, and the commands that list."""
    make(folder / "cells", num, size=SIZE_PIXELS)
    store, run_id = folder / "store", ""

    def hemaflow(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hemaflow", *arguments],
            env={
                **os.environ,
                "HEMAFLOW_STORE": str(store),
                "HEMAFLOW_STAT_CACHE_DIR": str(folder / "cache"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    chosen = [part for change in CHANGES for part in ("--set", change)]
    data = ("--recipe", "demo", "--data", str(folder / "cells"), *chosen)

    def stage(name: str) -> None:
        nonlocal run_id
        run_id = json.loads(hemaflow("run", "--json", "--until", name, *data))["run"]

    return {
        **{f"stage {name}": partial(stage, name) for name in STAGES},
        "everything reused": partial(stage, STAGES[-1]),
        "plan": partial(hemaflow, "plan", *data),
        "runs": partial(hemaflow, "runs"),
        "show": lambda: hemaflow("show", run_id),
        "verify": partial(hemaflow, "verify"),
    }


def timed(make_all: Callable[[Path, int], Timed], num: int, repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each; a stage runs once, as it is reused from then on."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = make_all(Path(folder), num)
        gc.disable()  # as timeit does: it would look through all that was made for the measurement
        for name, function in made.items():
            found = []
            for _ in range(1 if name.startswith("stage") else repeats):
                started = cpu_seconds()
                function()
                found.append(cpu_seconds() - started)
            seconds[name] = min(found)
        gc.enable()
    return seconds


def exponent(sizes: Sequence[int], grown: Sequence[float]) -> float:
    """Return the slope of log time against log size."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(grown, 1e-6)), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of images")
    parser.add_argument("--only", choices=("functions", "commands"), help="one of the two kinds")
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    arguments = parser.parse_args()
    too_steep: list[str] = []
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {SIZE_PIXELS} px")
    for kind, make_all in (("functions", functions), ("commands", commands)):
        if arguments.only not in (None, kind):
            continue
        sizes = arguments.sizes or SIZES[kind]
        print(f"\n| {kind} | exponent | fixed s | µs an image | {' | '.join(f'{n:,}: s' for n in sizes)} |")
        print(f"|---|---|---|---|{'---|' * len(sizes)}", flush=True)
        fixed, *all_seconds = (timed(make_all, num, arguments.repeats) for num in (FIXED_IMAGES, *sizes))
        for name, base in fixed.items():
            grown = [seconds[name] - base for seconds in all_seconds]
            is_flat = grown[-1] < 0.2 * base
            slope = 0.0 if is_flat else exponent(sizes, grown)
            too_steep += [name] if slope > STEEPER.get(name, MOST) else []
            print(
                f"| {name} | {'flat' if is_flat else f'{slope:.2f}'} | {base:.3f} "
                f"| {1e6 * grown[-1] / (sizes[-1] - FIXED_IMAGES):.1f} "
                f"| {' | '.join(f'{seconds[name]:.3f}' for seconds in all_seconds)} |",
                flush=True,
            )
    if too_steep:
        sys.exit(f"Steeper than they may be: {', '.join(too_steep)}.")


if __name__ == "__main__":
    main()
