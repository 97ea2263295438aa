"""Measure train: steps and images per second, and memory that does not grow with the number of images.

Makes records of smooth random pictures in a temporary store, trains the hand-built network on each set for
one epoch in a process of its own, and prints a table.

    python benchmarks/train_memory.py --records 12000 60000
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from augment_scaling import draft_of, ingested, peak_mib

from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.facts import AugmentFacts, IngestFacts
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.train.config import FineTuningConfig, ResolvedTrainConfig
from hemaflow.tasks.train.stage import run

CONFIG = ResolvedTrainConfig(head_units=(128,), fine_tuning=FineTuningConfig(epochs=1))


def parents_of(store: Store, ingest: Manifest) -> Parents:
    """Return results of ingest and augment: the records as they are."""
    augment = draft_of(store, "augment", ingest.key)
    for stored in ingest.objects:
        augment.adopt(stored)
    images = IngestFacts.of(ingest)
    facts = AugmentFacts(
        num_examples=images.num_examples["train"],
        num_shards=len(ingest.matching("train-")),
        image_size_pixels=images.image_size_pixels,
        classes=images.classes,
    )
    return Parents(store, {"ingest": ingest, "augment": facts.commit(augment)})


def train(parents: Parents) -> tuple[int, float, float]:
    """Return optimizer steps, seconds, and peak memory in MiB. Runs in a process of its own."""
    started = time.perf_counter()
    manifest = run(parents, CONFIG, draft_of(parents.store, "train"))
    return int(manifest.facts["optimizer_steps"]), time.perf_counter() - started, peak_mib()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[12000, 60000])
    parser.add_argument("--size", type=int, default=96, help="image size, pixels")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {arguments.size} px\n")
    print("| records | optimizer steps | seconds | images/s | peak MiB |")
    print("|---|---|---|---|---|")
    for num in arguments.records:
        with tempfile.TemporaryDirectory() as folder:
            store = LocalStore(Path(folder))
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
                ingest = pool.submit(ingested, store, num, arguments.size).result()
                steps, seconds, mib = pool.submit(train, parents_of(store, ingest)).result()
            print(f"| {num} | {steps} | {seconds:.0f} | {num / seconds:.0f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
