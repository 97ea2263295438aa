"""Measure what each image costs in each stage, and say what that makes of a million and a hundred million.

Runs the stages one by one on two numbers of drawn cells of 96 px, on a real S3 server behind a proxy that
counts requests: the recipe `demo` (one copy of each training image, its small network, full robustness) with
one epoch. The difference of the two runs is the cost of an image: CPU seconds of all processes, bytes and
objects of the result. Shards are small here (1 MiB), to tell requests for an object from requests for a
stage. From these costs, computes what N images take with W cores (--model): a stage that is divided among
workers takes its CPU seconds / W, another one its CPU seconds.

    python benchmarks/scale_costs.py --json costs.json
    python benchmarks/scale_costs.py --model costs.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import NamedTuple

from drawn_images import make

from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.results.manifest import load_manifest
from hemaflow.infra.store.open import open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.proxy import misbehaving

STAGES = ("ingest", "augment", "train", "predict", "evaluate", "submit")
SHARD_BYTES = 1 << 20
CHANGES = (
    f"ingest.shard_bytes={SHARD_BYTES}",
    f"augment.shard_bytes={SHARD_BYTES}",
    "train.fine_tuning.epochs=1",
)
DIVIDED = ("augment",)
"""Stages all of whose work is divided among workers; of ingest, cleaning and writing are not."""
MODEL_SHARD_BYTES = 32 << 20
EPOCHS = 10
"""Passes over the training images that the model counts."""
MODEL_IMAGES, MODEL_CORES = (10**6, 10**8), (1, 10, 100, 1000)


class Cost(NamedTuple):
    """What a stage took, or what an image adds to it."""

    cpu_seconds: float
    bytes: float
    objects: float
    requests: float


def children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def costs(folder: Path, num: int) -> dict[str, Cost]:
    """Return what each stage took on so many images, and the same run again."""
    make(folder / "cells", num, size=96)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store, found = open_store(url), {}
    with misbehaving(os.environ["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
        for stage in (*STAGES, "reused"):
            until = stage if stage in STAGES else STAGES[-1]
            changes = [part for change in CHANGES for part in ("--set", change)]
            before = children_cpu_seconds(), proxy.requests.total()
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "hemaflow", "run", "--json", "--recipe", "demo", *changes),
                    *("--data", str(folder / "cells"), "--store", url, "--until", until),
                ],
                env={**os.environ, "AWS_ENDPOINT_URL_S3": address, "HEMAFLOW_WORKERS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            cpu = children_cpu_seconds() - before[0]
            requests = proxy.requests.total() - before[1]
            ran = {row["stage"]: row["key"] for row in json.loads(done.stdout)["stages"]}
            loaded = load_manifest(store, stage, ran[stage]) if stage in STAGES else None
            objects = loaded[0].objects if loaded else ()
            size = sum(stored.size_bytes for stored in objects)
            found[stage] = Cost(cpu, size, len(objects), requests)
            print(f"{num} {stage}: {found[stage]}", file=sys.stderr, flush=True)
    return found


def measure(sizes: tuple[int, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the cost of each stage: what is fixed, and what an image adds."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        stack.start_s3(free_ports(1)[0])
        os.environ.update(
            stack.environment(),
            HEMAFLOW_STAGING_DIR=f"{folder}/staging",
            HEMAFLOW_STAT_CACHE_DIR=f"{folder}/stat_cache",
        )
        try:
            few, many = (costs(Path(folder) / str(num), num) for num in sizes)
        finally:
            stack.down()
    result = {}
    for stage, most in many.items():
        image = Cost(*((a - b) / (sizes[1] - sizes[0]) for a, b in zip(most, few[stage], strict=True)))
        fixed = Cost(*(a - b * sizes[1] for a, b in zip(most, image, strict=True)))
        result[stage] = {"image": image._asdict(), "fixed": fixed._asdict()}
    return result


def print_costs(stages: dict[str, dict[str, dict[str, float]]]) -> None:
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; 96 px, recipe demo, one epoch\n"
    )
    print("| stage | CPU ms an image | bytes an image | requests an object | fixed CPU s | fixed requests |")
    print("|---|---|---|---|---|---|")
    for stage, cost in stages.items():
        image, fixed = Cost(**cost["image"]), Cost(**cost["fixed"])
        each = f"{image.requests / image.objects:.1f}" if image.objects > 1e-4 else "—"
        print(
            f"| {stage} | {1e3 * image.cpu_seconds:.2f} | {image.bytes:,.0f} | {each} "
            f"| {fixed.cpu_seconds:.1f} | {fixed.requests:.0f} |"
        )


def print_model(stages: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the hours of each stage for MODEL_IMAGES and MODEL_CORES, and the size of its result."""
    print(f"| images | stage | objects | GB | {' | '.join(f'{n:,} cores: h' for n in MODEL_CORES)} |")
    print(f"|---|---|---|---|{'---|' * len(MODEL_CORES)}")
    for num in MODEL_IMAGES:
        for stage in STAGES:
            image, fixed = (Cost(**stages[stage][kind]) for kind in ("image", "fixed"))
            seconds = num * image.cpu_seconds * (EPOCHS if stage == "train" else 1)
            hours = [seconds / (cores if stage in DIVIDED else 1) / 3600 for cores in MODEL_CORES]
            # Below a byte an image: the size does not depend on their number.
            size = num * image.bytes if image.bytes > 1 else fixed.bytes
            num_objects = size / MODEL_SHARD_BYTES if image.bytes > 1 else fixed.objects
            print(
                f"| {num:,} | {stage} | {num_objects:,.0f} | {size / 1e9:,.2f} "
                f"| {' | '.join(f'{hour:,.2f}' for hour in hours)} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=(1000, 4000), help="numbers of images")
    parser.add_argument("--json", type=Path, help="file to write the costs to")
    parser.add_argument("--model", type=Path, help="file with costs: measure nothing")
    arguments = parser.parse_args()
    if arguments.model:
        stages = json.loads(arguments.model.read_text())
    else:
        stages = measure(tuple(arguments.sizes))
        if arguments.json:
            arguments.json.write_text(json.dumps(stages, indent=1))
    print_costs(stages)
    print()
    print_model(stages)


if __name__ == "__main__":
    main()
