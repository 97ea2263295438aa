"""The training feed without TensorFlow: what `tasks/records/tf_feed.py` does, as generators of numpy arrays.

For Keras backends that take generators (jax). The order differs from that of tf.data; it too follows from
seed and epoch alone, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, starmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.schema import batched
from hemaflow.tasks.records.tfrecord import read_records

Batch = tuple[NDArray[np.uint8] | NDArray[np.float32], ...]
"""uint8[B, H, W, 3], float32[B, C] and, where classes are weighed, float32[B]."""


def training_batches(
    shards: PrefetchedShards,
    image_size_pixels: int,
    *,
    batch_size: int,
    shuffle_buffer_images: int,
    interleaved_shards: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    class_weights: Sequence[float] = (),
) -> Iterator[Batch]:
    """Yield one epoch of (uint8[B, H, W, 3], float32[B, C][, float32[B]]); see `tasks/records/tf_feed.py`."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(shards))
    records = _interleaved(_opened(shards, order), interleaved_shards)
    shuffled = islice(_shuffled(records, shuffle_buffer_images, rng), first_step * batch_size, None)
    for batch in batched(shuffled, image_size_pixels, batch_size):
        weights = (batch.labels @ np.array(class_weights, np.float32),) if class_weights else ()
        yield (batch.images, batch.labels, *weights)


def validation_batches(shards: PrefetchedShards, image_size_pixels: int, batch_size: int) -> Iterator[Batch]:
    """Yield all of a split as (uint8[B, H, W, 3], float32[B, C]), in order."""
    records = chain.from_iterable(_opened(shards, range(len(shards))))
    for batch in batched(records, image_size_pixels, batch_size):
        yield batch.images, batch.labels


def _opened(shards: PrefetchedShards, order: Iterable[int]) -> Iterator[Iterator[bytes]]:
    """Yield the records of each shard; a shard is given back after its last record."""

    def read(number: int, path: Path) -> Iterator[bytes]:
        yield from read_records(path)
        shards.give_back(number)

    return starmap(read, shards.lend(order))


def _interleaved(sources: Iterator[Iterator[bytes]], at_once: int) -> Iterator[bytes]:
    """Yield one record of each source in turn; a source that ends makes room for the next."""
    running = list(islice(sources, at_once))
    while running:
        for place, source in enumerate(list(running)):
            record = next(source, None)
            if record is not None:
                yield record
            else:
                running[place : place + 1] = islice(sources, 1)
                break


def _shuffled(records: Iterable[bytes], buffer_size: int, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield all records, each drawn from those that the buffer holds."""
    buffer: list[bytes] = []
    for record in records:
        if len(buffer) < max(1, buffer_size):
            buffer.append(record)
            continue
        place = int(rng.integers(len(buffer)))
        buffer[place], record = record, buffer[place]
        yield record
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
