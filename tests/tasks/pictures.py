"""Small results of ingest and augment, for tests of the stages after them: three classes told by colour."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from infra.draft import Draft
from infra.local_store import LocalStore
from infra.manifest import KeyInputs
from tasks import records
from tasks.stage import Parents

SIZE, CLASSES = 24, ["blue", "green", "red"]


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
                label = records.one_hot(index % 3, 3)
                encoded.append(records.encode(f"{split}{index}", image, label))
            count = records.write_shard(path, encoded)
            draft.put_file(records.shard_name(split, shard, num_shards), path, num_records=count)


def parents(store: LocalStore, num_train: int = 90, num_val: int = 30) -> Parents:
    ingest = Draft(store, inputs("ingest"))
    put_shards(ingest, "val", num_val)
    augment = Draft(store, inputs("augment"))
    put_shards(augment, "train", num_train, num_shards=3)
    counts = {"train": num_train, "val": num_val, "test": 0}
    manifests = {
        "ingest": ingest.commit(classes=CLASSES, image_size_pixels=SIZE, num_examples=counts),
        "augment": augment.commit(
            num_examples=num_train, num_shards=3, image_size_pixels=SIZE, classes=CLASSES
        ),
    }
    return Parents(store, manifests)
