"""Small results of ingest and augment, for tests of the stages after them: three classes told by colour."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.facts import CLASSES, augment_facts, evaluate_facts, ingest_facts, train_facts
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.records import schema
from hemaflow.tasks.records.index import Row, write_index
from hemaflow.tasks.records.tfrecord import write_records

SIZE = 24


def inputs(stage: str, **config: object) -> KeyInputs:
    return KeyInputs(stage=stage, config=config, parents={}, code={}, libraries={})


def put_shards(draft: Draft, split: str, num_images: int, num_shards: int = 1) -> None:
    rng = np.random.default_rng(num_images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        for shard in range(num_shards):
            encoded = []
            for index in range(shard, num_images, num_shards):
                image = rng.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
                image[..., index % 3] += 90
                label = schema.one_hot(index % 3, 3)
                encoded.append(schema.encode(f"{split}{index}", image, label))
            count = write_records(path, encoded)
            draft.put_file(schema.shard_name(split, shard, num_shards), path, num_records=count)


def parents(store: Store, num_train: int = 90, num_val: int = 30, num_shards: int = 3) -> Parents:
    ingest = Draft(store, inputs("ingest"))
    put_shards(ingest, "val", num_val)
    augment = Draft(store, inputs("augment"))
    put_shards(augment, "train", num_train, num_shards)
    counts = {"train": num_train, "val": num_val, "test": 0}
    manifests = {
        "ingest": ingest.commit(**ingest_facts(CLASSES, SIZE, counts)),
        "augment": augment.commit(**augment_facts(num_train, num_shards=num_shards, image_size_pixels=SIZE)),
    }
    return Parents(store, manifests)


class Cell(NamedTuple):
    """A picture of a data set that a test makes up."""

    id: str
    label: int
    image: NDArray[np.uint8]


def colour_cells(
    prefix: str, count: int, channels: Sequence[int] = (2, 1, 0), *, size: int = SIZE, seed: int = 0
) -> list[Cell]:
    """Noise in which one channel leads: that of `channels` at the picture's label."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([*prefix.encode(), number, seed])
        image = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
        label = number % len(channels)
        image[..., channels[label]] += 90
        made.append(Cell(f"{prefix}{number}", label, image))
    return made


def ingested(
    store: LocalStore,
    name: str,
    splits: Mapping[str, Sequence[Cell]],
    classes: Sequence[str] = CLASSES,
    **facts: Any,
) -> Manifest:
    """A result of ingest that holds these pictures."""
    draft = Draft(store, inputs("ingest", name=name, fit="crop"))
    rows: list[Row] = []
    size = 0
    for split in ("train", "val", "test"):
        held = splits.get(split, ())
        rows += [
            Row(cell.id, hashlib.sha256(cell.image.tobytes()).hexdigest(), cell.label, split, cell.id)
            for cell in held
        ]
        if held:
            size = held[0].image.shape[0]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "shard"
                encoded = (
                    schema.encode(cell.id, cell.image, schema.one_hot(cell.label, len(classes)))
                    for cell in held
                )
                count = write_records(path, encoded)
                draft.put_file(schema.shard_name(split, 0, 1), path, num_records=count)
    draft.put("index.csv", write_index(rows))
    counts = {split: len(splits.get(split, ())) for split in ("train", "val", "test")}
    return draft.commit(**ingest_facts(classes, size, counts, **facts))


def trained(store: LocalStore, name: str, channels: Sequence[int], size: int = SIZE) -> Manifest:
    """A result of train whose model names, of the left half, the class whose channel of `channels` leads."""
    import keras

    pixels = keras.Input((size, size, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, size // 2)))(keras.layers.Rescaling(1 / 255)(pixels))
    dense = keras.layers.Dense(len(channels), activation="softmax")
    model = keras.Model(pixels, dense(keras.layers.GlobalAveragePooling2D()(left)))
    weights = np.zeros((3, len(channels)), np.float32)
    weights[list(channels), range(len(channels))] = 9.0
    dense.set_weights([weights, np.zeros(len(channels), np.float32)])
    draft = Draft(store, inputs("train", name=name))
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        draft.put_file("model.keras", Path(folder) / "model.keras")
    return draft.commit(**train_facts())


def evaluated(store: LocalStore, name: str, views: Sequence[str] = ("identity",)) -> Manifest:
    """A result of evaluate with these views."""
    return Draft(store, inputs("evaluate", name=name)).commit(**evaluate_facts(tta_views=list(views)))
