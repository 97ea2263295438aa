"""TFRecord files and tf.train.Example messages without TensorFlow, whose import takes ten seconds.

Writes the bytes that TensorFlow writes, checksums included, and reads examples of that form only: lists of
bytes and of packed float32. Checksums are not compared, because the store compares the SHA-256 of the whole
file.

Framing: uint64 length, uint32 CRC of the length, data, uint32 CRC of the data, all little-endian, each CRC a
masked CRC-32C (tensorflow.org/tutorials/load_data/tfrecord). Messages:
Example{1: Features{1: map<string, Feature{1: BytesList{1: bytes} | 2: FloatList{1: packed}}>}}
(tensorflow/core/example/feature.proto, protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fastcrc import crc32
from numpy.typing import NDArray

Features = Mapping[str, bytes | NDArray[np.float32]]
"""Name → bytes, or float32[N]."""

_BYTES_LIST, _FLOAT_LIST = 1, 2
_MASK_DELTA = 0xA282EAD8
"""Constant of the checksum's masking (tensorflow.org/tutorials/load_data/tfrecord)."""


class Place(NamedTuple):
    """The position of one record."""

    path: Path
    offset_bytes: int
    size_bytes: int

    def read(self) -> bytes:
        """Return the record."""
        with self.path.open("rb") as file:
            file.seek(self.offset_bytes)
            return file.read(self.size_bytes)


def record_places(path: Path) -> Iterator[Place]:
    """Yield the positions of the records of a TFRecord file, in order; reads only their lengths."""
    with path.open("rb") as file:
        while header := file.read(12):
            (size_bytes,) = struct.unpack("<Q", header[:8])
            yield Place(path, file.tell(), size_bytes)
            file.seek(size_bytes + 4, 1)


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file in order, one in memory at a time."""
    with path.open("rb", buffering=1 << 20) as file:
        while header := file.read(12):
            (size_bytes,) = struct.unpack("<Q", header[:8])
            yield file.read(size_bytes)
            file.seek(4, 1)


def parse_example(record: bytes) -> Features:
    """Return the features of an example: the first of a list of bytes, or all of a list of float32."""
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


def encode_example(features: Features) -> bytes:
    """Encode an example, its features in the order of their names, as TensorFlow does."""
    entries = []
    for name, value in sorted(features.items()):
        if isinstance(value, bytes):
            feature = _field(_BYTES_LIST, _field(1, value))
        else:
            feature = _field(_FLOAT_LIST, _field(1, np.asarray(value, "<f4").tobytes()))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def write_records(path: Path, records: Iterable[bytes]) -> int:
    """Write encoded records to a TFRecord file; return how many there were."""
    count = 0
    with path.open("wb", buffering=1 << 20) as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + _masked_crc(length))
            file.write(record)
            file.write(_masked_crc(record))
            count += 1
    return count


def _masked_crc(data: bytes) -> bytes:
    crc = crc32.iscsi(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _field(number: int, content: bytes) -> bytes:
    """Return a field that is preceded by its length."""
    return _varint_of(number << 3 | 2) + _varint_of(len(content)) + content


@lru_cache(maxsize=1024)  # records of one size have the same few numbers
def _varint_of(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the content of each field; every field here is preceded by its length."""
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
