"""Reading the records of a shard without TensorFlow: TFRecord framing and tf.train.Example, with numpy alone.

Reads what `tasks/records.py` writes, no other example: lists of bytes and of packed float32. Checksums of the
frames are not compared: the store held the whole file against its SHA-256.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_BYTES_LIST, _FLOAT_LIST = 1, 2


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file in order, one in memory at a time.

    Framing: uint64 length, uint32 CRC, data, uint32 CRC (tensorflow.org/tutorials/load_data/tfrecord).
    """
    with path.open("rb", buffering=1 << 20) as file:
        while header := file.read(12):
            (size_bytes,) = struct.unpack("<Q", header[:8])
            yield file.read(size_bytes)
            file.seek(4, 1)


def parse_example(record: bytes) -> dict[str, bytes | NDArray[np.float32]]:
    """Return the features of an example: the first of a list of bytes, or all of a list of float32.

    Messages: Example{1: Features{1: map<string, Feature{1: BytesList{1: bytes} | 2: FloatList{1: packed}}>}}
    (tensorflow/core/example/feature.proto, protobuf.dev/programming-guides/encoding).
    """
    features: dict[str, bytes | NDArray[np.float32]] = {}
    for _, message in _fields(memoryview(record)):
        for _, entry in _fields(message):
            name, feature = (value for _, value in sorted(_fields(entry), key=lambda field: field[0]))
            kind, values = next(_fields(feature))
            content = next((value for _, value in _fields(values)), memoryview(b""))
            if kind == _BYTES_LIST:
                features[bytes(name).decode()] = bytes(content)
            elif kind == _FLOAT_LIST:
                features[bytes(name).decode()] = np.frombuffer(content, "<f4").astype(np.float32)
    return features


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the content of each field; all of ours are delimited by their length."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        size_bytes, position = _varint(message, position)
        if tag & 7 != 2:
            raise ValueError(f"Expected fields delimited by length. Received: wire type {tag & 7}")
        yield tag >> 3, message[position : position + size_bytes]
        position += size_bytes


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
