"""How fast training reads shards from S3 where the disk has room for all of them, for half, or for a few.

    python benchmarks/shard_cache.py [--shards 24] [--size 96] [--epochs 3] [--room 24 12 0]

Writes shards of 32 MB into an S3 server on this machine, and reads them with TensorFlow's feed, in a process
of its own for each limit of the staging folder (HEMAFLOW_STAGING_BYTES). Prints, for each limit in shards,
images per second, the shards fetched in each epoch, and the most that the folder held. The batches must be
the same with every limit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from augment_scaling import CLASSES, draft_of, pictures

from hemaflow.infra.deploy.stack import BUCKET, Stack, free_ports
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import available_cores, current_settings
from hemaflow.infra.store.open import open_store
from hemaflow.infra.store.s3 import S3Store
from hemaflow.infra.store.staging import Writer
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.schema import record_bytes, shard_name
from hemaflow.tasks.records.tf_feed import training_batches
from hemaflow.tasks.records.tfrecord import write_records

SHARD_BYTES = 32 << 20


class Counting(S3Store):
    """A store that counts the objects that it fetches.

    Attributes:
        fetched: How many there were.
    """

    fetched = 0

    def _fetch(self, name: str, file: Writer, start: int) -> None:
        self.fetched += 1
        super()._fetch(name, file, start)


class Reading(NamedTuple):
    """What a reading of some epochs was like."""

    digest: str
    images_per_second: float
    fetched: list[int]
    most_bytes: int


def written(url: str, num_shards: int, size: int) -> Manifest:
    """Write shards of the same pictures under different names."""
    draft = draft_of(open_store(url), "augment")
    records = list(pictures(0, SHARD_BYTES // record_bytes(size, len(CLASSES)), size))
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(num_shards):
            path = Path(folder) / shard_name("train", shard, num_shards)
            write_records(path, (record.replace(b"cell-", b"%04d-" % shard) for record in records))
            draft.put_file(path.name, path, num_records=len(records))
            path.unlink()
    return draft.commit()


def read(prefix: str, manifest: Manifest, size: int, epochs: int) -> Reading:
    """Read some epochs. Runs in a process of its own."""
    settings = current_settings()
    store = Counting(BUCKET, prefix, settings)
    shards = PrefetchedShards(Parents(store, {}), manifest.matching("train-"))
    digest, num_images, fetched = hashlib.sha256(), 0, []
    with watched(settings.staging_dir) as most:
        started = time.perf_counter()
        for epoch in range(epochs):
            before = store.fetched
            for images, labels in training_batches(
                shards, size, len(CLASSES), batch_size=64, shuffle_buffer_images=4096, seed=0, epoch=epoch
            ):
                digest.update(np.asarray(labels).tobytes())
                num_images += len(images)
            fetched.append(store.fetched - before)
        seconds = time.perf_counter() - started
    return Reading(digest.hexdigest(), num_images / seconds, fetched, max(most))


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Yield the bytes that a folder holds, measured again and again."""
    held = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            total = 0
            for path in folder.glob("*/**/*"):
                with suppress(FileNotFoundError):
                    total += path.stat().st_size if path.is_file() else 0
            held.append(total)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--size", type=int, default=96, help="image size, pixels")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--room", type=int, nargs="+", default=[24, 12, 0], help="limits, in shards")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {available_cores()} cores, {platform.system()}; {arguments.shards} shards\n"
    )
    print("| room for shards | images/s | shards fetched, by epoch | most in the folder, MB |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        stack = Stack(Path(folder) / "stack")
        servers.callback(stack.down)
        stack.start_s3(free_ports(1)[0])
        os.environ.update(stack.environment())
        prefix, digests = uuid.uuid4().hex, set()
        os.environ["HEMAFLOW_STAGING_DIR"] = str(Path(folder) / "unused")
        os.environ["HEMAFLOW_STAGING_BYTES"] = "0"
        manifest = written(f"s3://{BUCKET}/{prefix}", arguments.shards, arguments.size)
        for room in arguments.room:
            os.environ["HEMAFLOW_STAGING_DIR"] = str(Path(folder) / f"room-{room}")
            os.environ["HEMAFLOW_STAGING_BYTES"] = str(room * SHARD_BYTES)
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
                found = pool.submit(read, prefix, manifest, arguments.size, arguments.epochs).result()
            digests.add(found.digest)
            fetched = ", ".join(map(str, found.fetched))
            print(f"| {room} | {found.images_per_second:.0f} | {fetched} | {found.most_bytes / 1e6:.0f} |")
        assert len(digests) == 1, "the batches differ"


if __name__ == "__main__":
    main()
