"""Predictions for spoiled images, under the heavy mix and the eleven corruptions of MedMNIST-C.

Reads the val and test shards of ingest, batch by batch; each batch is read once and goes through every
corruption. Under the heavy mix (`tasks/predict/heavy_mix.py`) the model predicts every view. Under MedMNIST-C
(`tasks/predict/medmnist_c.py`) it predicts only the unchanged view: that takes 55 passes over the split, and
all views would take several hundred.

Guarantees: memory does not grow with the number of images, except for a few bytes each; an image's
probabilities depend on (seed, its id), not on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Progress
from hemaflow.tasks.core.facts import IngestFacts, Split
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.classifier import Batch, split_batches
from hemaflow.tasks.inference.views import predict, predict_each
from hemaflow.tasks.predict import heavy_mix
from hemaflow.tasks.predict.config import IDENTITY, PredictConfig
from hemaflow.tasks.predict.medmnist_c import MEDMNIST_C, NUM_SEVERITIES, corrupt, generator
from hemaflow.tasks.predict.probabilities import SpoiledPredictions, new_array

if TYPE_CHECKING:
    import keras

MOST_HEAVY_MIX_EXAMPLES = 12
"""Maximum number of classes of which the first image is kept under the heavy mix."""


class SpoiledPictures(NamedTuple):
    """A few spoiled images of a split, to be shown."""

    first: dict[int, NDArray[np.uint8]]
    """Row → uint8[H, W, 3]: the first image of each class under the heavy mix, ordered by class."""
    original: NDArray[np.uint8] | None
    """uint8[H, W, 3], the first image, unchanged; None without MedMNIST-C."""
    corrupted: list[NDArray[np.uint8]]
    """uint8[H, W, 3] each: the first image under each corruption at severity 5."""


def predict_spoiled(
    parents: Parents,
    model: keras.Model,
    split: Split,
    config: PredictConfig,
    folder: Path,
    progress: Progress,
) -> tuple[SpoiledPredictions, SpoiledPictures]:
    """Spoil the images of a split and predict them.

    Args:
        parents: Holds `ingest`.
        model: A Keras model, float32[B, H, W, 3] in 0..255 → float32[B, C].
        split: val or test.
        config: The views of the heavy mix to predict, and which images to spoil, how.
        folder: Where the probabilities are written to.
        progress: Receives the progress.
    """
    facts = IngestFacts.of(parents["ingest"])
    chosen = drawn(facts.num_examples[split], config)
    total, num_classes, seed = int(chosen.sum()), len(facts.classes), config.robustness_seed
    labels = np.zeros(total, np.int64)
    mixed = new_array(folder, split, "heavy_mix", (len(config.views), total, num_classes))
    shape = (len(MEDMNIST_C), NUM_SEVERITIES, total, num_classes)
    corrupted = new_array(folder, split, "medmnistc", shape) if config.robustness == "full" else None
    pictures = SpoiledPictures({}, None, [])
    asked = Asker(model, config.batch_size)
    done = 0
    for ids, images, truth in _chosen(parents, split, chosen, config.batch_size):
        rows = slice(done, done + len(ids))
        labels[rows] = truth
        spoiled = heavy_mix.spoil(images, ids, seed)
        mixed[:, rows] = predict_each(model, spoiled, config.views, config.batch_size)
        for index, label in enumerate(truth):
            if len(pictures.first) < MOST_HEAVY_MIX_EXAMPLES and label not in labels[list(pictures.first)]:
                pictures.first[done + index] = spoiled[index].copy()
        if corrupted is not None:
            pictures = pictures if done else pictures._replace(original=images[0].copy())
            for number, name in enumerate(MEDMNIST_C):
                for severity in range(1, NUM_SEVERITIES + 1):
                    spoiled = corrupt(images, ids, name, severity, seed)
                    asked.ask(spoiled, corrupted[number, severity - 1, rows])
                if not done:
                    pictures.corrupted.append(spoiled[0].copy())
        done += len(ids)
        progress(done, total, f"{split} images, spoiled")
    asked.finish()
    ordered = dict(sorted(pictures.first.items(), key=lambda entry: labels[entry[0]]))
    return SpoiledPredictions(labels, mixed, corrupted), pictures._replace(first=ordered)


def drawn(total: int, config: PredictConfig) -> NDArray[np.bool_]:
    """Return bool[total], which images of a split are spoiled: some, all where the number is 0, or none."""
    if config.robustness == "none":
        return np.zeros(total, np.bool_)
    return draw(total, config.robustness_images, config.robustness_seed)


def draw(total: int, num_images: int, seed: int) -> NDArray[np.bool_]:
    """Return bool[total], which images of a split are drawn: all where num_images is 0 or too large."""
    if not 0 < num_images < total:
        return np.ones(total, np.bool_)
    chosen = np.zeros(total, np.bool_)
    chosen[generator(seed, "robustness images", total).permutation(total)[:num_images]] = True
    return chosen


class Asker:
    """Predicts images in full batches, in whatever numbers they come.

    A model is always given whole batches (see `hemaflow.tasks.inference.views.predict`): for 55 small sets of
    images, most of each batch would be padding.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.float32]]] = []
        self._num_waiting = 0

    def ask(self, images: NDArray[np.uint8], answers: NDArray[np.float32]) -> None:
        """Take images uint8[B, H, W, 3]; after `finish`, `answers` float32[B, C] are their probabilities."""
        self._waiting.append((images, answers))
        self._num_waiting += len(images)
        if self._num_waiting >= self._batch_size:
            self._predict(self._num_waiting - self._num_waiting % self._batch_size)

    def finish(self) -> None:
        """Predict the remaining images."""
        if self._num_waiting:
            self._predict(self._num_waiting)

    def _predict(self, count: int) -> None:
        images = np.concatenate([images for images, _ in self._waiting])
        predicted = predict(self._model, images[:count], (IDENTITY,), self._batch_size)
        left, start = [], 0
        for part, answers in self._waiting:
            known = min(max(count - start, 0), len(part))
            answers[:known] = predicted[start : start + known]
            if known < len(part):
                left.append((part[known:], answers[known:]))
            start += len(part)
        self._waiting, self._num_waiting = left, self._num_waiting - count


def _chosen(parents: Parents, split: str, chosen: NDArray[np.bool_], batch_size: int) -> Iterator[Batch]:
    """Yield the chosen images of a split, in order, in batches that are full but for the last one."""
    waiting: list[Batch] = []
    start = 0
    for batch in split_batches(parents, parents["ingest"], split, batch_size):
        picked = np.flatnonzero(chosen[start : start + len(batch.ids)])
        start += len(batch.ids)
        ids = [batch.ids[k] for k in picked]
        waiting.append(Batch(ids, batch.images[picked], batch.labels[picked]))
        while sum(len(part.ids) for part in waiting) >= batch_size:
            whole = _joined(waiting)
            yield _part(whole, slice(batch_size))
            waiting = [_part(whole, slice(batch_size, None))]
    if any(part.ids for part in waiting):
        yield _joined(waiting)


def _part(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.ids[rows], batch.images[rows], batch.labels[rows])


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return several batches as one."""
    return Batch(
        [image_id for batch in batches for image_id in batch.ids],
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
