"""The TFRecord schema: encode beside decode, for every stage that writes or reads records.

A record is one image with its label distribution:

    id      bytes      the image's id in the index; an augmented copy's is `<id>#<copy>`
    image   bytes      the pixels, uint8[H, W, 3], row by row
    label   float32[C] a distribution over the classes: one-hot, or soft after CutMix/MixUp

H, W and C are facts of the manifest (`image_size_pixels`, `classes`), not of each record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tensorflow as tf


class Place(NamedTuple):
    """Where one record lies."""

    path: Path
    offset_bytes: int
    size_bytes: int


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Return e.g. `train-00003-of-00024.tfrecord`: the total in the name tells when a set is whole."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def record_bytes(image_size_pixels: int, num_classes: int) -> int:
    """Return about how many bytes a record takes: pixels, label, and ~100 bytes of names and framing."""
    return image_size_pixels * image_size_pixels * 3 + 4 * num_classes + 100


def one_hot(label: int, num_classes: int) -> NDArray[np.float32]:
    """Return float32[num_classes] with a one at `label`."""
    encoded = np.zeros(num_classes, np.float32)
    encoded[label] = 1.0
    return encoded


def encode(image_id: str, image: NDArray[np.uint8], label: NDArray[np.float32]) -> bytes:
    """Encode one record. The image is uint8[H, W, 3], the label float32[C]."""
    import tensorflow as tf

    def feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                "id": feature(image_id.encode()),
                "image": feature(np.ascontiguousarray(image, np.uint8).tobytes()),
                "label": tf.train.Feature(float_list=tf.train.FloatList(value=label.tolist())),
            }
        )
    )
    return bytes(example.SerializeToString(deterministic=True))


def write_shard(path: Path, records: Iterable[bytes]) -> int:
    """Write encoded records to a TFRecord file; return how many there were."""
    import tensorflow as tf

    count = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
            count += 1
    return count


def record_places(path: Path) -> Iterator[Place]:
    """Yield where the records of a TFRecord file lie, in order; of the file only their lengths are read.

    A record is framed as uint64 length, uint32 CRC, data, uint32 CRC
    (tensorflow.org/tutorials/load_data/tfrecord).
    """
    with path.open("rb") as file:
        while header := file.read(12):
            (size_bytes,) = struct.unpack("<Q", header[:8])
            yield Place(path, file.tell(), size_bytes)
            file.seek(size_bytes + 4, 1)


def read_image(place: Place, image_size_pixels: int) -> NDArray[np.uint8]:
    """Return the image of one record as uint8[H, W, 3]."""
    import tensorflow as tf

    with place.path.open("rb") as file:
        file.seek(place.offset_bytes)
        example = tf.train.Example.FromString(file.read(place.size_bytes))
    pixels = example.features.feature["image"].bytes_list.value[0]
    return np.frombuffer(pixels, np.uint8).reshape(image_size_pixels, image_size_pixels, 3)


def decode(records: Any, image_size_pixels: int, num_classes: int) -> dict[str, tf.Tensor]:
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


def read_batches(
    paths: Sequence[Path], image_size_pixels: int, num_classes: int, batch_size: int
) -> tf.data.Dataset:
    """Return a dataset of decoded batches (see `decode`) in file order, in bounded memory."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset([str(path) for path in paths], buffer_size=8 << 20)
    return (
        records.batch(batch_size)
        .map(
            lambda batch: decode(batch, image_size_pixels, num_classes),
            num_parallel_calls=2,
            deterministic=True,
        )
        .prefetch(2)
    )
