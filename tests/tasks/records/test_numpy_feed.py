"""Records and feed for other Keras backends: those of TensorFlow, which is not needed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.absent import run_without
from helpers.pictures import SIZE, parents
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.records import schema, tf_feed
from hemaflow.tasks.records.numpy_feed import training_batches, validation_batches
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.tfrecord import read_records, record_places, write_records


@pytest.fixture
def shards(store: LocalStore) -> PrefetchedShards:
    results = parents(store, num_train=50)
    return PrefetchedShards(results, results["augment"].matching("train-"))


def batches(shards: PrefetchedShards, **changes: Any) -> list[tuple[Any, ...]]:
    arguments: dict[str, Any] = {"batch_size": 8, "shuffle_buffer_images": 20, "seed": 1, "epoch": 0}
    return list(training_batches(shards, SIZE, interleaved_shards=2, **(arguments | changes)))


def images(shards: PrefetchedShards, **changes: Any) -> list[bytes]:
    return [batch[0].tobytes() for batch in batches(shards, **changes)]


def test_an_epoch_is_a_function_of_seed_and_epoch(shards: PrefetchedShards) -> None:
    assert images(shards) == images(shards)
    assert images(shards) != images(shards, epoch=1)
    assert images(shards) != images(shards, seed=2)


def test_a_feed_begun_later_gives_the_rest(shards: PrefetchedShards) -> None:
    assert images(shards, first_step=4) == images(shards)[4:]


def test_every_image_comes_once_with_its_label_and_mixed(shards: PrefetchedShards) -> None:
    found = batches(shards, class_weights=(0.5, 1.0, 4.0))
    assert [len(batch[0]) for batch in found] == [8] * 6 + [2]
    pixels, labels, weights = (np.concatenate([batch[part] for batch in found]) for part in range(3))
    assert (pixels.dtype, labels.dtype, weights.dtype) == (np.uint8, np.float32, np.float32)
    assert len({image.tobytes() for image in pixels}) == 50
    assert pixels.mean((1, 2)).argmax(1).tolist() == labels.argmax(1).tolist()
    np.testing.assert_allclose(weights, labels @ [0.5, 1.0, 4.0])
    assert labels.argmax(1).tolist() != sorted(labels.argmax(1))
    assert images(shards, shuffle_buffer_images=1) != images(shards, shuffle_buffer_images=50)


@pytest.mark.slow
def test_validation_is_that_of_tensorflow(store: LocalStore) -> None:
    results = parents(store)
    shards = PrefetchedShards(results, results["ingest"].matching("val-"))
    ours, theirs = validation_batches(shards, SIZE, 8), tf_feed.validation_batches(shards, SIZE, 3, 8)
    for (pixels, labels), (other_pixels, other_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(pixels, other_pixels)
        np.testing.assert_array_equal(labels, other_labels)


def encoded_by_tensorflow(image_id: str, image: NDArray[np.uint8], label: NDArray[np.float32]) -> bytes:
    import tensorflow as tf

    def feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                "id": feature(image_id.encode()),
                "image": feature(image.tobytes()),
                "label": tf.train.Feature(float_list=tf.train.FloatList(value=label.tolist())),
            }
        )
    )
    return bytes(example.SerializeToString(deterministic=True))


def written_by_tensorflow(path: Path, made: list[bytes]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in made:
            writer.write(record)


@pytest.mark.slow
def test_records_are_read_as_tensorflow_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [
        encoded_by_tensorflow(
            "ä" * length, rng.integers(0, 256, (96, 96, 3), dtype=np.uint8), rng.random(8, np.float32)
        )
        for length in (0, 1, 300)
    ]
    written_by_tensorflow(tmp_path / "shard", made)
    assert list(read_records(tmp_path / "shard")) == made
    assert [place.read() for place in record_places(tmp_path / "shard")] == made
    for record in made:
        parsed, decoded = schema.parse(record, 96), schema.decode([record], 96, 8)
        assert parsed.id.encode() == decoded["id"].numpy()[0]
        np.testing.assert_array_equal(parsed.image, decoded["image"].numpy()[0])
        np.testing.assert_array_equal(parsed.label, decoded["label"].numpy()[0])


@pytest.mark.slow
def test_records_are_written_as_tensorflow_writes_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = []
    for id_length, size, num_classes in ((0, 1, 1), (1, 5, 2), (30, 96, 8), (200, 96, 40)):
        image, label = (
            rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
            rng.random(num_classes, np.float32),
        )
        image = image[::-1, ::-1]  # not as it lies in memory
        made.append(schema.encode("ä" * id_length, image, label))
        assert made[-1] == encoded_by_tensorflow("ä" * id_length, image, label)
    made += [b"", b"a", rng.bytes(4097)]
    assert write_records(tmp_path / "ours", made) == len(made)
    written_by_tensorflow(tmp_path / "theirs", made)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


TRAINING = """
import pickle, sys
from pathlib import Path
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.results.manifest import KeyInputs
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.stage import run
sys.path.append("tests")
from helpers.networks import TWO_LAYERS, two_layers_registered
root, manifests, epochs = sys.argv[1:]
store = LocalStore(Path(root))
inputs = KeyInputs(stage="train", config={}, parents={}, code={}, libraries={})
with two_layers_registered():
    config = ResolvedTrainConfig(
        backbone=TWO_LAYERS, batch_size=16, head_units=(16,),
        fine_tuning={"epochs": int(epochs), "learning_rate": 0.003},
        online=({"name": "RandomRotation", "factors": {"factor": 0.1}, "probability": 0.5},),
    )
    made = run(Parents(store, pickle.loads(Path(manifests).read_bytes())), config, Draft(store, inputs))
print(made.facts["optimizer_steps"], made.facts["best_val_accuracy"])
"""


def without(absent: str, store: LocalStore, tmp_path: Path, code: str, *arguments: str) -> list[str]:
    """What code prints in a process of JAX that finds no such packages."""
    (tmp_path / "manifests").write_bytes(pickle.dumps(parents(store, 90).manifests))
    said = run_without(absent, code, store.root, tmp_path / "manifests", *arguments, KERAS_BACKEND="jax")
    return said.split()


READING = """
import pickle, sys
from pathlib import Path
import hemaflow.tasks.train.stage
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.numpy_feed import training_batches
from hemaflow.tasks.core.stage import Parents
root, manifests = sys.argv[1:]
parents = Parents(LocalStore(Path(root)), pickle.loads(Path(manifests).read_bytes()))
shards = PrefetchedShards(parents, parents["augment"].matching("train-"))
feed = training_batches(
    shards, 24, batch_size=16, shuffle_buffer_images=9, interleaved_shards=4, seed=1, epoch=0
)
print(sum(len(images) for images, _ in feed))
"""


@pytest.mark.slow
def test_the_feed_needs_numpy_alone(store: LocalStore, tmp_path: Path) -> None:
    assert without("tensorflow keras", store, tmp_path, READING) == ["90"]


@pytest.mark.slow
def test_training_needs_no_tensorflow(store: LocalStore, tmp_path: Path) -> None:
    steps, accuracy = without("tensorflow", store, tmp_path, TRAINING, "8")[-2:]
    assert int(steps) == 8 * 6
    assert float(accuracy) > 0.9
