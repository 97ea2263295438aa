"""The stage augment: shards that do not depend on who writes them, labels, resuming, the preview."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from helpers.absent import run_without
from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import KeyInputs, Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.augment.config import AugmentConfig
from hemaflow.tasks.augment.stage import finish, plan, run, write
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.layers.keras_cv_table import LAYERS, LayerConfig
from hemaflow.tasks.layers.own_layers import OWN_LAYERS
from hemaflow.tasks.records.index import Row, write_index
from hemaflow.tasks.records.schema import encode, one_hot, read_shards, record_bytes, shard_name
from hemaflow.tasks.records.tfrecord import write_records

SIZE = 16
CLASSES = ["basophil", "eosinophil", "platelet"]
NUM_TRAIN = 40
MIXING = AugmentConfig(
    layers=(
        LayerConfig(name="RandAugment", factors={"magnitude": 0.4}),
        LayerConfig(name="CutMix", probability=0.5),
        LayerConfig(name="MixUp"),
        LayerConfig(name="RandomColorDegeneration", factors={"factor": 0.5}),
        LayerConfig(name="RandomFlip", probability=0.5, factors={"mode": "horizontal_and_vertical"}),
    ),
    copies=2,
    seed=7,
    shard_bytes=3 * 10 * record_bytes(SIZE, len(CLASSES)),
    batch_size=8,
)


def draft_of(store: LocalStore, stage: str, **config: Any) -> Draft:
    return Draft(store, KeyInputs(stage=stage, config=config, parents={}, code={}, libraries={}))


def picture(row: int) -> np.ndarray:
    """Smooth, different for every row, and brighter in one channel for each class."""
    rng = np.random.default_rng(row)
    walk = rng.integers(-6, 7, (SIZE, SIZE, 3)).cumsum(0).cumsum(1) + 100
    walk[..., row % 3] += 60
    pixels: np.ndarray = np.clip(walk, 0, 255).astype(np.uint8)
    return pixels


def ingest(store: LocalStore, folder: Path, num_train: int = NUM_TRAIN) -> Parents:
    """Make an ingest result of three files of training records, by hand."""
    draft = draft_of(store, "ingest")
    rows = [Row(f"cell-{k}", "0" * 64, k % 3, "train", f"{k}.png") for k in range(num_train)]
    draft.put("index.csv", write_index(rows))
    bounds = [0, num_train // 4, num_train // 2, num_train]
    for file, (first, end) in enumerate(pairwise(bounds)):
        name = shard_name("train", file, 3)
        records = (encode(rows[k].id, picture(k), one_hot(k % 3, 3)) for k in range(first, end))
        num = write_records(folder / name, records)
        draft.put_file(name, folder / name, num_records=num)
    return Parents(store, {"ingest": facts_of(num_train).commit(draft)})


def facts_of(num_train: int) -> IngestFacts:
    counts = [len(range(label, num_train, 3)) for label in range(3)]
    return IngestFacts(
        classes=list(CLASSES),
        image_size_pixels=SIZE,
        num_examples={"train": num_train, "val": 0, "test": 0},
        class_counts={"train": counts, "val": [0] * 3, "test": [0] * 3},
        source="pictures",
        num_findings={},
    )


@pytest.fixture
def parents(store: LocalStore, tmp_path: Path) -> Parents:
    return ingest(store, tmp_path)


def records_of(store: LocalStore, manifest: Manifest) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    paths = [store.path(stored.location, stored.sha256) for stored in manifest.matching("train-")]
    found = {}
    for record in read_shards(paths, SIZE):
        assert record.id not in found
        found[record.id] = (record.image, record.label)
    return found


AS_THEY_ARE = """
import pickle, sys
from pathlib import Path
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.results.manifest import KeyInputs
from hemaflow.tasks.augment.stage import AugmentConfig, run
from hemaflow.tasks.core.stage import Parents
root, manifests = sys.argv[1:]
store = LocalStore(Path(root))
inputs = KeyInputs(stage="augment", config={}, parents={}, code={}, libraries={})
made = run(Parents(store, pickle.loads(Path(manifests).read_bytes())), AugmentConfig(), Draft(store, inputs))
print(made.facts["num_examples"])
"""


@pytest.mark.slow
def test_images_as_they_are_need_no_tensorflow(store: LocalStore, parents: Parents, tmp_path: Path) -> None:
    (tmp_path / "manifests").write_bytes(pickle.dumps(parents.manifests))
    said = run_without("tensorflow keras keras_cv", AS_THEY_ARE, store.root, tmp_path / "manifests")
    assert int(said) == NUM_TRAIN


def test_originals_alone(store: LocalStore, parents: Parents) -> None:
    config = AugmentConfig(shard_bytes=15 * record_bytes(SIZE, 3))
    manifest = run(parents, config, draft_of(store, "augment"))
    assert manifest.facts == {
        "num_examples": 40, "num_shards": 3, "image_size_pixels": SIZE, "classes": CLASSES,
    }  # fmt: skip
    assert [o.num_records for o in manifest.matching("train-")] == [13, 13, 14]
    found = records_of(store, manifest)
    assert set(found) == {f"cell-{k}" for k in range(40)}
    for k in range(40):
        np.testing.assert_array_equal(found[f"cell-{k}"][0], picture(k))
        np.testing.assert_array_equal(found[f"cell-{k}"][1], one_hot(k % 3, 3))


def test_plain_shard_has_these_bytes(store: LocalStore, parents: Parents) -> None:
    config = AugmentConfig()
    [shard] = plan(parents, config)
    stored = write(parents, config, draft_of(store, "augment"), shard)
    assert stored.sha256 == "a725427a030abdb53e0aa0b3af0afbf45d5a12ad5257ce4548c10c4bf54e4fa9"


@pytest.mark.slow
def test_bytes_do_not_depend_on_who_writes(store: LocalStore, parents: Parents) -> None:
    """All shards in order in this process, or in two spawned ones, the last first: the same bytes."""
    shards = plan(parents, MIXING)
    assert len(shards) == 4
    here, there = draft_of(store, "augment", workers=1), draft_of(store, "augment", workers=2)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        futures = [pool.submit(write, parents, MIXING, there, shard) for shard in reversed(shards)]
        serial = [write(parents, MIXING, here, shard).sha256 for shard in shards]
        parallel = [future.result().sha256 for future in reversed(futures)]
    assert parallel == serial
    assert len(set(serial)) == 4


@pytest.mark.slow
def test_another_seed_gives_other_bytes(store: LocalStore, parents: Parents) -> None:
    shard = plan(parents, MIXING)[0]
    sums = {
        write(
            parents, MIXING.model_copy(update={"seed": seed}), draft_of(store, "augment", seed=seed), shard
        ).sha256
        for seed in range(4)
    }
    assert len(sums) == 4


@pytest.mark.slow
def test_shards_draw_differently(store: LocalStore, tmp_path: Path) -> None:
    """The same pictures in two shards do not come out the same."""
    draft = draft_of(store, "ingest")
    name = shard_name("train", 0, 1)
    same = [encode(f"cell-{k}", picture(0), one_hot(0, 3)) for k in range(2)]
    write_records(tmp_path / name, same)
    draft.put_file(name, tmp_path / name, num_records=2)
    draft.put("index.csv", write_index(Row(f"cell-{k}", "", 0, "train", "") for k in range(2)))
    ingested = facts_of(2).commit(draft)
    config = MIXING.model_copy(update={"shard_bytes": 1024, "keep_original": False, "copies": 1})
    manifest = run(Parents(store, {"ingest": ingested}), config, draft_of(store, "augment"))
    assert manifest.facts["num_shards"] == 2
    found = records_of(store, manifest)
    assert not np.array_equal(found["cell-0#1"][0], found["cell-1#1"][0])


@pytest.mark.slow
def test_soft_labels_and_ids(store: LocalStore, parents: Parents) -> None:
    manifest = run(parents, MIXING, draft_of(store, "augment"))
    found = records_of(store, manifest)
    assert set(found) == {f"cell-{k}{copy}" for k in range(40) for copy in ("", "#1", "#2")}
    labels = np.stack([label for _, label in found.values()])
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-5)
    assert labels.min() >= 0
    soft = {key for key, (_, label) in found.items() if 0.01 < label.max() < 0.99}
    assert len(soft) > 20
    assert not any("#" not in key for key in soft)
    for k in range(40):
        np.testing.assert_array_equal(found[f"cell-{k}"][0], picture(k))
        assert not np.array_equal(found[f"cell-{k}#1"][0], found[f"cell-{k}#2"][0])


@pytest.mark.slow
def test_copies_of_an_image_are_scattered(store: LocalStore, parents: Parents) -> None:
    manifest = run(parents, MIXING, draft_of(store, "augment"))
    sources = [key.partition("#")[0] for key in records_of(store, manifest)]
    neighbours = sum(a == b for a, b in pairwise(sources))
    assert neighbours < 20  # 6.7 expected by chance in 120 records, 80 where each image's stay together


@pytest.mark.slow
def test_mixed_label_is_that_of_the_pixels(store: LocalStore, parents: Parents) -> None:
    """CutMix of flat pictures: the part of each grey value is the part of its class."""
    from hemaflow.tasks.layers.keras_cv_chain import Chain

    chain = Chain([LayerConfig(name="CutMix")], 6, SIZE, 3)
    greys = np.arange(6) % 3 * 100
    images = np.broadcast_to(greys[:, None, None, None], (6, SIZE, SIZE, 3)).astype(np.uint8)
    mixed, labels = chain(images, np.eye(3, dtype=np.float32)[np.arange(6) % 3], 5)
    parts = np.stack([(mixed[..., 0] == grey).mean(axis=(1, 2)) for grey in (0, 100, 200)], axis=1)
    np.testing.assert_allclose(labels, parts, atol=1e-5)
    assert (labels.max(axis=1) < 0.99).any()


@pytest.mark.slow
def test_probability_is_of_each_image() -> None:
    from hemaflow.tasks.layers.keras_cv_chain import Chain

    chain = Chain([LayerConfig(name="Solarization", probability=0.3)], 200, SIZE, 3)
    images = np.full((200, SIZE, SIZE, 3), 10, np.uint8)
    out, _ = chain(images, np.tile(one_hot(0, 3), (200, 1)), 1)
    changed = (out != images).any(axis=(1, 2, 3))
    assert 40 <= changed.sum() <= 80  # 60 expected, ±3 standard deviations


NUM = 16
SOME: dict[str, dict[str, Any]] = {
    "RandAugment": {},
    "RandomRotation": {"factor": 0.2},
    "JpegCompression": {"quality": [5, 50]},
    "MotionBlur": {"length": [0.1, 0.2]},
}
REQUIRED = {"span": 0.3, "pair": [0.5, 0.9], "margins": 0.3, "integer": 3, "size": 3}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.slow
def test_every_layer_runs_and_repeats(name: str) -> None:
    from hemaflow.tasks.layers.keras_cv_chain import MIXING, Chain

    given = {factor: REQUIRED[form.kind] for factor, form in LAYERS[name].items() if form.required}
    if name in OWN_LAYERS:
        given = {factor: [form.high / 4, form.high / 2] for factor, form in LAYERS[name].items()}
    if name == "RandomShear":
        given = {"x_factor": 0.3}
    if name == "RandomGaussianBlur":
        given["factor"] = [1.0, 2.0]
    probability = 1.0 if name in MIXING else 0.5
    chain = Chain([LayerConfig(name=name, factors=given, probability=probability)], NUM, SIZE, 3)
    images = np.stack([picture(k) for k in range(NUM)])
    labels = np.eye(3, dtype=np.float32)[np.arange(NUM) % 3]
    first, first_labels = chain(images, labels, 1)
    again, again_labels = chain(images, labels, 1)
    other, _ = chain(images, labels, 2)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_labels, again_labels)
    assert first.dtype == np.uint8
    changed = (first != images).any((1, 2, 3))
    assert changed.any()
    if name not in MIXING:  # what was not drawn is as it was
        assert not changed.all()
        np.testing.assert_array_equal(first_labels, labels)
    np.testing.assert_allclose(first_labels.sum(axis=1), 1.0, atol=1e-5)
    # Whatever is drawn, an image that they change comes out the same.
    fixed = {"AutoContrast", "Equalization", "Grayscale", "Posterization", "RandomFlip", "Solarization"}
    both = changed & (other != images).any((1, 2, 3))
    assert both.any()
    assert np.array_equal(first[both], other[both]) == (name in fixed)


@pytest.mark.slow
def test_an_image_that_is_drawn_for_no_layer_is_left_alone() -> None:
    from hemaflow.tasks.layers.keras_cv_chain import Chain

    layers = [LayerConfig(name=name, factors=factors, probability=1e-6) for name, factors in SOME.items()]
    images, labels = np.stack([picture(k) for k in range(4)]), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    out, same = Chain(layers, 4, SIZE, 3)(images, labels, 1)
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(same, labels)


@pytest.mark.slow
def test_only_missing_shards_are_written(store: LocalStore, parents: Parents) -> None:
    shards = plan(parents, MIXING)
    first = draft_of(store, "augment")
    done = [write(parents, MIXING, first, shard) for shard in shards[:2]]
    before = {o.location: store.path(o.location, o.sha256).stat().st_mtime_ns for o in done}
    manifest = run(parents, MIXING, draft_of(store, "augment"))
    assert {o.location: store.path(o.location, o.sha256).stat().st_mtime_ns for o in done} == before
    assert {o.location for o in done} < {o.location for o in manifest.objects}


@pytest.mark.slow
def test_shard_that_was_altered_is_written_again(store: LocalStore, parents: Parents) -> None:
    shard = plan(parents, MIXING)[0]
    stored = write(parents, MIXING, draft_of(store, "augment"), shard)
    whole = store.get(stored.location)
    store.put(stored.location, b"x" * len(whole))
    assert write(parents, MIXING, draft_of(store, "augment"), shard) == stored
    assert store.get(stored.location) == whole


@pytest.mark.slow
def test_preview_shows_every_class(store: LocalStore, parents: Parents) -> None:
    from PIL import Image

    manifest = run(parents, MIXING, draft_of(store, "augment"))
    again = run(parents, MIXING, draft_of(store, "augment", again=True))
    assert manifest.object("preview.png").sha256 == again.object("preview.png").sha256
    with Image.open(io.BytesIO(manifest.read(store, "preview.png"))) as sheet:
        width, height = sheet.size
        pixels = np.asarray(sheet)
    rows = pixels.reshape(height, -1).mean(axis=1)
    assert width > height
    assert ((rows[1:] < 230) & (rows[:-1] >= 230)).sum() == len(CLASSES)  # as many bands of pictures


@pytest.mark.slow
def test_finish_needs_every_shard(store: LocalStore, parents: Parents) -> None:
    draft = draft_of(store, "augment")
    parts = [write(parents, MIXING, draft, shard) for shard in plan(parents, MIXING)[1:]]
    with pytest.raises(StageError, match="not those of the plan"):
        finish(parents, MIXING, draft_of(store, "augment"), parts)


def test_nothing_to_augment(store: LocalStore) -> None:
    ingested = facts_of(0).commit(draft_of(store, "ingest"))
    with pytest.raises(DataError, match="training split holds no image"):
        plan(Parents(store, {"ingest": ingested}), AugmentConfig())


def test_records_that_end_early(store: LocalStore, parents: Parents, tmp_path: Path) -> None:
    facts = facts_of(NUM_TRAIN + 5).model_dump(mode="json")
    longer = Parents(store, {"ingest": parents["ingest"].model_copy(update={"facts": facts})})
    [shard] = plan(longer, AugmentConfig())
    with pytest.raises(StageError, match="training records end too early"):
        write(longer, AugmentConfig(), draft_of(store, "augment"), shard)


def test_config_that_gives_nothing() -> None:
    with pytest.raises(ValidationError, match="copies of at least 1 where keep_original is false"):
        AugmentConfig(keep_original=False)


def test_copies_without_layers() -> None:
    with pytest.raises(ValidationError, match="at least one layer for copies=2"):
        AugmentConfig(copies=2)
