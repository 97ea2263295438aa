"""Measure augment: images per second, shards that do not depend on the workers, memory that does not grow.

Makes ingest results of smooth random pictures in a temporary store, augments each with the published recipe's
chain (RandAugment, CutMix, MixUp, translation, shear, contrast, brightness), and prints a table.

    python benchmarks/augment_scaling.py --records 12000 60000 --copies 1 --workers 1 2
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, Manifest, StoredObject
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.augment.config import AugmentConfig
from hemaflow.tasks.augment.shard_plan import Shard
from hemaflow.tasks.augment.stage import finish, plan, write
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.layers.keras_cv_table import LayerConfig
from hemaflow.tasks.records.schema import encode, one_hot, shard_name
from hemaflow.tasks.records.tfrecord import write_records

CLASSES = [f"class {k}" for k in range(8)]
FILE_RECORDS = 1200
SEED_CHAIN = (
    LayerConfig(name="RandAugment"),
    LayerConfig(name="CutMix", probability=0.5),
    LayerConfig(name="MixUp", probability=0.5),
    LayerConfig(name="RandomTranslation", factors={"height_factor": 0.1, "width_factor": 0.1}),
    LayerConfig(name="RandomShear", factors={"x_factor": 0.1, "y_factor": 0.1}),
    LayerConfig(name="RandomContrast", factors={"factor": 0.2}),
    LayerConfig(name="RandomBrightness", factors={"factor": 0.1}),
)


def draft_of(store: Store, stage: str, tag: str = "") -> Draft:
    return Draft(store, KeyInputs(stage=stage, config={"tag": tag}, parents={}, code={}, libraries={}))


def pictures(first: int, end: int, size: int) -> Iterator[bytes]:
    ramp = np.linspace(0, 1, size)
    for row in range(first, end):
        rng = np.random.default_rng(row)
        x, y = np.outer(np.ones(size), ramp), np.outer(ramp, np.ones(size))
        waves = [np.sin(rng.uniform(3, 20) * x + rng.uniform(3, 20) * y + c) for c in range(3)]
        image = (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)
        yield encode(f"cell-{row}", image, one_hot(row % 8, 8))


def ingested(store: Store, num: int, size: int) -> Manifest:
    """Run in a process of its own, so that it does not count."""
    draft = draft_of(store, "ingest", str(num))
    num_files = -(-num // FILE_RECORDS)
    with tempfile.TemporaryDirectory() as folder:
        for file in range(num_files):
            first, end = file * FILE_RECORDS, min(num, (file + 1) * FILE_RECORDS)
            path = Path(folder) / shard_name("train", file, num_files)
            write_records(path, pictures(first, end, size))
            draft.put_file(path.name, path, num_records=end - first)
            path.unlink()
    in_turn = [len(range(label, num, len(CLASSES))) for label in range(len(CLASSES))]
    none = [0] * len(CLASSES)
    return IngestFacts(
        classes=CLASSES,
        image_size_pixels=size,
        num_examples={"train": num, "val": 0, "test": 0},
        class_counts={"train": in_turn, "val": none, "test": none},
        source="waves",
        num_findings={},
    ).commit(draft)


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def timed_write(
    parents: Parents, config: AugmentConfig, draft: Draft, shard: Shard
) -> tuple[StoredObject, float]:
    return write(parents, config, draft, shard), peak_mib()


def timed_finish(
    parents: Parents, config: AugmentConfig, draft: Draft, parts: list[StoredObject]
) -> tuple[Manifest, float]:
    return finish(parents, config, draft, parts), peak_mib()


def measure(parents: Parents, config: AugmentConfig, num_workers: int) -> tuple[str, str]:
    """Return a line of the table and a digest of all shards."""
    spawn, shards = get_context("spawn"), plan(parents, config)
    draft = draft_of(parents.store, "augment", f"{num_workers} {parents['ingest'].key}")
    started = time.perf_counter()
    with ProcessPoolExecutor(num_workers, spawn) as pool:
        futures = [pool.submit(timed_write, parents, config, draft, shard) for shard in shards]
        done = [future.result() for future in futures]
    seconds = time.perf_counter() - started
    parts = [part for part, _ in done]
    with ProcessPoolExecutor(1, spawn) as pool:
        manifest, finish_mib = pool.submit(timed_finish, parents, config, draft, parts).result()
    images, digest = parents["ingest"].facts["num_examples"]["train"], hashlib.sha256()
    for part in parts:
        digest.update(bytes.fromhex(part.sha256))
    for stored in manifest.objects:
        parents.store.delete([stored.location])
    augmented = images * config.copies
    line = (
        f"| {images} | {num_workers} | {len(shards)} | {seconds:.0f} | {augmented / seconds:.0f} "
        f"| {max(mib for _, mib in done):.0f} | {finish_mib:.0f} | {digest.hexdigest()[:12]} |"
    )
    return line, digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[12000, 60000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=96, help="image size, pixels")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--shard-mib", type=int, default=32)
    arguments = parser.parse_args()
    config = AugmentConfig(
        layers=SEED_CHAIN, copies=arguments.copies, shard_bytes=arguments.shard_mib << 20, seed=1
    )
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {arguments.size} px\n")
    print("| images | workers | shards | seconds | augmented images/s | worker MiB | finish MiB | SHA-256 |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for num in arguments.records:
            store = LocalStore(Path(folder) / str(num))
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                manifest = pool.submit(ingested, store, num, arguments.size).result()
            digests = set()
            for num_workers in arguments.workers:
                line, digest = measure(Parents(store, {"ingest": manifest}), config, num_workers)
                print(line, flush=True)
                digests.add(digest)
            if len(digests) != 1:
                sys.exit("The shards depend on the number of workers.")


if __name__ == "__main__":
    main()
