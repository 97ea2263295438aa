"""The schema of records: how every stage encodes, parses and decodes them.

A record is a tf.train.Example (tasks/records/tfrecord.py) of one image with its label distribution:

    id      bytes      the image's id in the index; an augmented copy's is `<id>#<copy>`
    image   bytes      the pixels, uint8[H, W, 3], row by row
    label   float32[C] a distribution over the classes: one-hot, or soft after CutMix/MixUp

H, W and C are facts of the manifest (`image_size_pixels`, `classes`), not of each record. The feed of
training decodes with TensorFlow; every other reader parses without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.records.tfrecord import encode_example, parse_example, read_records

if TYPE_CHECKING:
    import tensorflow as tf


class Record(NamedTuple):
    """One image."""

    id: str
    image: NDArray[np.uint8]  # [H, W, 3]
    label: NDArray[np.float32]  # [C]


class Batch(NamedTuple):
    """Several images."""

    ids: list[str]
    images: NDArray[np.uint8]  # [B, H, W, 3]
    labels: NDArray[np.float32]  # [B, C]


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Return e.g. `train-00003-of-00024.tfrecord`: the total in the name tells when a set is whole."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def record_bytes(image_size_pixels: int, num_classes: int) -> int:
    """Return the approximate size of a record: pixels, label, and 100 bytes of names and framing."""
    return image_size_pixels * image_size_pixels * 3 + 4 * num_classes + 100


def one_hot(label: int, num_classes: int) -> NDArray[np.float32]:
    """Return float32[num_classes] with a one at `label`."""
    encoded = np.zeros(num_classes, np.float32)
    encoded[label] = 1.0
    return encoded


def encode(image_id: str, image: NDArray[np.uint8], label: NDArray[np.float32]) -> bytes:
    """Encode one record. The image is uint8[H, W, 3], the label float32[C]."""
    return encode_example(
        {
            "id": image_id.encode(),
            "image": np.ascontiguousarray(image, np.uint8).tobytes(),
            "label": np.asarray(label, np.float32),
        }
    )


def parse(record: bytes, image_size_pixels: int) -> Record:
    """Return what `encode` was given."""
    features = parse_example(record)
    pixels = np.frombuffer(bytes(features["image"]), np.uint8)
    image = pixels.reshape(image_size_pixels, image_size_pixels, 3)
    return Record(bytes(features["id"]).decode(), image, np.asarray(features["label"], np.float32))


def read_shards(paths: Iterable[Path], image_size_pixels: int) -> Iterator[Record]:
    """Yield the records of TFRecord files in their order, one in memory at a time."""
    for path in paths:
        for record in read_records(path):
            yield parse(record, image_size_pixels)


def read_batches(paths: Iterable[Path], image_size_pixels: int, batch_size: int) -> Iterator[Batch]:
    """Yield the records of TFRecord files in batches, in their order; the last batch may be smaller."""
    yield from batched((r for path in paths for r in read_records(path)), image_size_pixels, batch_size)


def batched(records: Iterable[bytes], image_size_pixels: int, batch_size: int) -> Iterator[Batch]:
    """Yield records in batches, in their order; the last batch may be smaller."""
    source = iter(records)
    while parsed := [parse(record, image_size_pixels) for record in islice(source, batch_size)]:
        ids, images, labels = zip(*parsed, strict=True)
        yield Batch(list(ids), np.stack(images), np.stack(labels))


def decode(records: tf.Tensor, image_size_pixels: int, num_classes: int) -> dict[str, tf.Tensor]:
    """Decode a batch of records inside tf.data.

    Args:
        records: string[B], serialized records.
        image_size_pixels: H and W.
        num_classes: C.

    Returns:
        `id` string[B], `image` uint8[B, H, W, 3], `label` float32[B, C].
    """
    import tensorflow as tf

    shape = (image_size_pixels, image_size_pixels, 3)
    parsed = tf.io.parse_example(
        records,
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([num_classes], tf.float32),
        },
    )
    num_bytes = image_size_pixels * image_size_pixels * 3
    pixels = tf.io.decode_raw(parsed["image"], tf.uint8, fixed_length=num_bytes)
    return {"id": parsed["id"], "image": tf.reshape(pixels, (-1, *shape)), "label": parsed["label"]}
