from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pictures import SIZE, parents
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import open_store
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.records import numpy_feed
from hemaflow.tasks.records.prefetch import FETCHED_AHEAD, PrefetchedShards
from hemaflow.tasks.records.tf_feed import (
    INTERLEAVED_SHARDS,
    num_steps,
    training_batches,
    validation_batches,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def shards(store: LocalStore) -> PrefetchedShards:
    results = parents(store, num_train=50)
    return PrefetchedShards(results, results["augment"].matching("train-"))


def feed(shards: PrefetchedShards, **changes: Any) -> list[bytes]:
    arguments: dict[str, Any] = {"batch_size": 8, "shuffle_buffer_images": 20, "seed": 1, "epoch": 0}
    batches = training_batches(shards, SIZE, 3, **(arguments | changes))
    return [images.numpy().tobytes() for images, _ in batches]


def test_an_epoch_is_a_function_of_seed_and_epoch(shards: PrefetchedShards) -> None:
    assert feed(shards) == feed(shards)
    assert feed(shards) != feed(shards, epoch=1)
    assert feed(shards) != feed(shards, seed=2)


def test_a_feed_begun_later_gives_the_rest(shards: PrefetchedShards) -> None:
    assert feed(shards, first_step=4) == feed(shards)[4:]


def test_every_image_comes_once_with_its_label(shards: PrefetchedShards) -> None:
    images, labels = [], []
    for batch, truth in training_batches(
        shards, SIZE, 3, batch_size=8, shuffle_buffer_images=20, seed=1, epoch=0
    ):
        images += list(batch.numpy())
        labels += list(truth.numpy())
    assert len({image.tobytes() for image in images}) == 50
    assert num_steps(50, 8) == 7
    brightest = [int(np.argmax(image.mean((0, 1)))) for image in images]
    assert brightest == [int(np.argmax(label)) for label in labels]


def test_validation_comes_in_order(store: LocalStore) -> None:
    results = parents(store)
    shards = PrefetchedShards(results, results["ingest"].matching("val-"))
    labels = [label for _, batch in validation_batches(shards, SIZE, 3, 8) for label in batch.numpy()]
    assert [int(np.argmax(label)) for label in labels] == [index % 3 for index in range(30)]


def test_images_weigh_what_their_labels_do(shards: PrefetchedShards) -> None:
    batches = training_batches(
        shards, SIZE, 3, batch_size=8, shuffle_buffer_images=9, seed=1, epoch=0, class_weights=(0.5, 1.0, 4.0)
    )
    for _, labels, weights in batches:
        np.testing.assert_allclose(weights, np.array(labels) @ [0.5, 1.0, 4.0])


def test_a_disk_with_room_for_few_shards_suffices(
    store: LocalStore, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of 24 shards from S3, by both feeds: the same batches as from a local store."""
    staging = tmp_path / "staging"
    monkeypatch.setenv("HEMAFLOW_STAGING_DIR", str(staging))
    monkeypatch.setenv("HEMAFLOW_STAGING_BYTES", "0")
    in_use = INTERLEAVED_SHARDS + FETCHED_AHEAD
    most = 0

    def read(results: Parents, feed: Callable[..., Any], epoch: int) -> list[bytes]:
        nonlocal most
        shards = PrefetchedShards(results, results["augment"].matching("train-"))
        found = []
        for images, _ in feed(shards, epoch):
            found.append(np.asarray(images).tobytes())
            most = max(most, len(list(staging.glob("objects/??/*"))))
        return found

    def tensorflow(shards: PrefetchedShards, epoch: int) -> Any:
        return training_batches(shards, SIZE, 3, batch_size=8, shuffle_buffer_images=20, seed=1, epoch=epoch)

    def numpy(shards: PrefetchedShards, epoch: int) -> Any:
        return numpy_feed.training_batches(
            shards,
            SIZE,
            batch_size=8,
            shuffle_buffer_images=20,
            interleaved_shards=INTERLEAVED_SHARDS,
            seed=1,
            epoch=epoch,
        )

    local, remote = parents(store, 240, 1, 24), parents(open_store(s3_url), 240, 1, 24)
    for feed in (tensorflow, numpy):
        for epoch in range(2):
            assert read(remote, feed, epoch) == read(local, feed, epoch)
    assert INTERLEAVED_SHARDS <= most <= in_use + FETCHED_AHEAD, most


def test_a_feed_that_is_left_early_gives_its_shards_back(store: LocalStore) -> None:
    results = parents(store, 240, 1, 24)
    shards = PrefetchedShards(results, results["augment"].matching("train-"))
    for _ in training_batches(shards, SIZE, 3, batch_size=8, shuffle_buffer_images=9, seed=1, epoch=0):
        break
    gc.collect()
    assert not shards._lent
