"""The training feed: shards to shuffled batches, in bounded memory, the same for the same seed and epoch.

Each epoch opens the shards in another order, a few at a time, as soon as they are local, and mixes their
records in a buffer of bounded size. A feed that begins at step k yields what the whole feed yields from step
k on.

With Keras' tensorflow backend a feed is a tf.data.Dataset, which reads ahead. With any other backend it is a
generator of numpy arrays (tasks/records/numpy_feed.py), and TensorFlow need not be installed. The two yield
the records in different orders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.records import numpy_feed
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.schema import decode

if TYPE_CHECKING:
    import tensorflow as tf

VAL_BATCH_SIZE = 256
"""Images in a batch of validation, where no gradients take memory."""
INTERLEAVED_SHARDS = 4
"""Shards read at once: enough to mix, few enough to stay sequential on a disk."""


def num_steps(num_records: int, batch_size: int) -> int:
    """Return how many batches one epoch has; the last may be smaller."""
    return math.ceil(num_records / batch_size)


def training_batches(
    shards: PrefetchedShards,
    image_size_pixels: int,
    num_classes: int,
    *,
    batch_size: int,
    shuffle_buffer_images: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    class_weights: Sequence[float] = (),
) -> tf.data.Dataset | Iterator[numpy_feed.Batch]:
    """Return one epoch of (uint8[B, H, W, 3], float32[B, C]) from `first_step` on.

    With `class_weights` (C of them), each batch also has float32[B], the weights of its images; that of a
    soft label is the mean of the class weights by its shares.
    """
    if not _tensorflow():
        return numpy_feed.training_batches(
            shards,
            image_size_pixels,
            batch_size=batch_size,
            shuffle_buffer_images=shuffle_buffer_images,
            interleaved_shards=INTERLEAVED_SHARDS,
            seed=seed,
            epoch=epoch,
            first_step=first_step,
            class_weights=class_weights,
        )

    rng = np.random.default_rng((seed, epoch))
    records = _records(shards, rng.permutation(len(shards)), INTERLEAVED_SHARDS)
    records = records.shuffle(
        max(1, shuffle_buffer_images), seed=int(rng.integers(2**31)), reshuffle_each_iteration=False
    )
    batches = records.batch(batch_size).skip(first_step)
    return batches.map(
        lambda batch: _tuple(decode(batch, image_size_pixels, num_classes), class_weights),
        num_parallel_calls=2,
        deterministic=True,
    ).prefetch(4)


def validation_batches(
    shards: PrefetchedShards, image_size_pixels: int, num_classes: int, batch_size: int
) -> tf.data.Dataset | Iterator[numpy_feed.Batch]:
    """Return all of a split as (uint8[B, H, W, 3], float32[B, C]), in order."""
    if not _tensorflow():
        return numpy_feed.validation_batches(shards, image_size_pixels, batch_size)
    batches = (
        _records(shards, np.arange(len(shards)), at_once=1)
        .batch(batch_size)
        .map(lambda batch: _tuple(decode(batch, image_size_pixels, num_classes)), num_parallel_calls=2)
    )
    return batches.prefetch(2)


def _records(shards: PrefetchedShards, order: NDArray[np.int64], at_once: int) -> tf.data.Dataset:
    """Return the records of shards as string[], one of each open shard in turn.

    The order of the records is that of a parallel interleave; without one, no more shards are open than
    `at_once`. On two shared x86-64 cores both read 30,000 records of 96 pixels a second.
    """
    import tensorflow as tf

    def read(number: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
        end = tf.data.Dataset.from_tensors("").filter(
            lambda _: tf.numpy_function(shards.give_back, [number], tf.bool)
        )
        return tf.data.TFRecordDataset(path, buffer_size=4 << 20).concatenate(end)

    def lend() -> Iterator[tuple[int, str]]:
        return ((number, str(path)) for number, path in shards.lend(order))

    signature = (tf.TensorSpec((), tf.int64), tf.TensorSpec((), tf.string))
    return tf.data.Dataset.from_generator(lend, output_signature=signature).interleave(
        read, cycle_length=at_once
    )


def _tensorflow() -> bool:
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def _tuple(decoded: dict[str, tf.Tensor], class_weights: Sequence[float] = ()) -> tuple[tf.Tensor, ...]:
    import tensorflow as tf

    pair = decoded["image"], decoded["label"]
    return (*pair, tf.linalg.matvec(decoded["label"], list(class_weights))) if class_weights else pair
