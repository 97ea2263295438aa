"""Robustness: predictions on spoiled images, under the heavy mix and the eleven corruptions of MedMNIST-C.

Reads the val and test shards of ingest, batch by batch; each batch is decoded once and goes through every
corruption. Under the heavy mix (`tasks/evaluate/heavy_mix.py`) the model predicts every view, and the metrics
are those of clean images. Under MedMNIST-C (`tasks/evaluate/medmnist_c.py`) it predicts only the unchanged
view: that takes 55 passes over the split, and all views would take several hundred.

Guarantees: memory does not grow with the number of images, except for their probabilities and a few bytes
each; an image's prediction depends on (seed, its id), not on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Progress
from hemaflow.tasks.core.facts import IngestFacts, Split
from hemaflow.tasks.core.run_metrics import ClassScores, CorruptionScores, SplitMetrics
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import heavy_mix, metrics
from hemaflow.tasks.evaluate.medmnist_c import (
    ALEXNET_BALANCED_ERROR,
    MEDMNIST_C,
    NUM_SEVERITIES,
    corrupt,
    generator,
)
from hemaflow.tasks.evaluate.view_search import Answers
from hemaflow.tasks.inference.classifier import Batch, split_batches
from hemaflow.tasks.inference.views import average, predict, predict_each
from hemaflow.tasks.report.inputs import Examples, Spoiled

if TYPE_CHECKING:
    import keras

MOST_HEAVY_MIX_EXAMPLES = 12
"""Maximum number of classes of which the first image is shown under the heavy mix."""


class Robustness(NamedTuple):
    """The predictions of a model for the spoiled images of a split."""

    labels: NDArray[np.int64]
    """int64[N]."""
    heavy_mix: Answers
    """View → probabilities under the heavy mix."""
    named: NDArray[np.int64]
    """int64[K, 5, N], the class predicted under each corruption and severity; K is 0 without MedMNIST-C."""
    first: dict[int, NDArray[np.uint8]]
    """Row → uint8[H, W, 3]: the first image of each class under the heavy mix, ordered by class."""
    original: NDArray[np.uint8] | None
    """uint8[H, W, 3], the first image, unchanged; None without MedMNIST-C."""
    worst: list[NDArray[np.uint8]]
    """uint8[H, W, 3] each: the first image under each corruption at severity 5."""

    def examples(self, views: Sequence[str]) -> Examples:
        """Return images to show; predictions under the heavy mix are averaged over these views."""
        predicted = average([self.heavy_mix[view] for view in views]).argmax(1)
        labels = self.labels.tolist()
        return Examples(
            [Spoiled("", image, labels[row], int(predicted[row])) for row, image in self.first.items()],
            self.original,
            [
                Spoiled(name, image, labels[0], int(answers[-1, 0]))
                for name, image, answers in zip(MEDMNIST_C, self.worst, self.named, strict=False)
            ],
        )


def measure(
    parents: Parents,
    model: keras.Model,
    split: Split,
    views: Sequence[str],
    *,
    batch_size: int,
    num_images: int,
    seed: int,
    medmnist_c: bool,
    progress: Progress,
) -> Robustness:
    """Spoil the images of a split and predict them.

    Args:
        parents: Holds `ingest`.
        model: A Keras model, float32[B, H, W, 3] in 0..255 → float32[B, C].
        split: val or test.
        views: The views of the heavy mix to predict, `identity` among them.
        batch_size: Number of images at once on the device.
        num_images: Number of images to draw from the split; 0 for all.
        seed: Random seed of the draw, the heavy mix and the corruptions.
        medmnist_c: Whether to measure the eleven corruptions, too.
        progress: Receives the progress.
    """
    facts = IngestFacts.of(parents["ingest"])
    chosen = draw(facts.num_examples[split], num_images, seed)
    total = int(chosen.sum())
    corruptions = list(MEDMNIST_C) if medmnist_c else []
    labels = np.zeros(total, np.int64)
    answers = np.zeros((len(views), total, len(facts.classes)), np.float32)
    named = np.zeros((len(corruptions), NUM_SEVERITIES, total), np.int64)
    first: dict[int, NDArray[np.uint8]] = {}
    original: NDArray[np.uint8] | None = None
    worst: list[NDArray[np.uint8]] = []
    asked = Asker(model, batch_size)
    done = 0
    for ids, images, truth in _chosen(parents, split, chosen, batch_size):
        rows = slice(done, done + len(ids))
        labels[rows] = truth
        mixed = heavy_mix.spoil(images, ids, seed)
        answers[:, rows] = predict_each(model, mixed, views, batch_size)
        for index, label in enumerate(truth):
            if len(first) < MOST_HEAVY_MIX_EXAMPLES and label not in labels[list(first)]:
                first[done + index] = mixed[index].copy()
        original = images[0].copy() if original is None and corruptions else original
        for number, name in enumerate(corruptions):
            for severity in range(1, NUM_SEVERITIES + 1):
                spoiled = corrupt(images, ids, name, severity, seed)
                asked.ask(spoiled, named[number, severity - 1, rows])
            if not done:
                worst.append(spoiled[0].copy())
        done += len(ids)
        progress(done, total, f"{split} images, spoiled")
    asked.finish()
    ordered = dict(sorted(first.items(), key=lambda entry: labels[entry[0]]))
    return Robustness(labels, dict(zip(views, answers, strict=True)), named, ordered, original, worst)


def draw(total: int, num_images: int, seed: int) -> NDArray[np.bool_]:
    """Return bool[total], which images of a split are drawn: all where num_images is 0 or too large."""
    if not 0 < num_images < total:
        return np.ones(total, np.bool_)
    chosen = np.zeros(total, np.bool_)
    chosen[generator(seed, "robustness images", total).permutation(total)[:num_images]] = True
    return chosen


class Asker:
    """Classifies images in full batches, in whatever numbers they come.

    A model is always given whole batches (see `hemaflow.tasks.inference.views.predict`): for 55 small sets of
    images, most of each batch would be padding.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
        self._num_waiting = 0

    def ask(self, images: NDArray[np.uint8], answers: NDArray[np.int64]) -> None:
        """Take images uint8[B, H, W, 3]; after `finish`, their classes are in `answers`, int64[B]."""
        self._waiting.append((images, answers))
        self._num_waiting += len(images)
        if self._num_waiting >= self._batch_size:
            self._predict(self._num_waiting - self._num_waiting % self._batch_size)

    def finish(self) -> None:
        """Classify the remaining images."""
        if self._num_waiting:
            self._predict(self._num_waiting)

    def _predict(self, count: int) -> None:
        images = np.concatenate([images for images, _ in self._waiting])
        predicted = predict(self._model, images[:count], ("identity",), self._batch_size).argmax(1)
        left, start = [], 0
        for part, answers in self._waiting:
            known = min(max(count - start, 0), len(part))
            answers[:known] = predicted[start : start + known]
            if known < len(part):
                left.append((part[known:], answers[known:]))
            start += len(part)
        self._waiting, self._num_waiting = left, self._num_waiting - count


def evaluate_medmnist_c(
    labels: NDArray[np.int64],
    named: NDArray[np.int64],
    classes: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> SplitMetrics:
    """Return the metrics under MedMNIST-C; only `num_examples` without images.

    Accuracies and recalls are means over all corruptions and severities. The interval of the accuracy is a
    bootstrap over the images, each with all its corruptions.

    Args:
        labels: int64[N].
        named: int64[11, 5, N], the class predicted under each corruption (in MEDMNIST_C's order) and
            severity.
        classes: Names of the labels.
        resamples: Number of bootstrap resamples of the interval.
        seed: Random seed of the bootstrap.
    """
    if not len(labels):
        return SplitMetrics(num_examples=0)
    right = named == labels
    support = np.bincount(labels, minlength=len(classes))
    found = np.stack([right[:, :, labels == k].sum(2) for k in range(len(classes))], axis=2)
    present = support > 0
    recall = found[:, :, present] / support[present]  # float64[11, 5, classes present]
    accuracy, balanced = right.mean(2), recall.mean(2)
    errors = 1 - balanced.mean(1)
    ratios = errors / np.array([ALEXNET_BALANCED_ERROR[name] for name in MEDMNIST_C])
    recalls = found.mean((0, 1)) / np.maximum(support, 1)
    return SplitMetrics(
        accuracy=float(accuracy.mean()),
        balanced_accuracy=float(balanced.mean()),
        intervals={"accuracy": metrics.mean_interval(right.mean((0, 1)), resamples=resamples, seed=seed)},
        balanced_error=float(errors.mean()),
        balanced_error_to_alexnet=float(ratios.mean()),
        corruptions=[
            CorruptionScores(
                corruption=name,
                accuracy=accuracy[number].tolist(),
                balanced_accuracy=balanced[number].tolist(),
                balanced_error=float(errors[number]),
                balanced_error_to_alexnet=float(ratios[number]),
            )
            for number, name in enumerate(MEDMNIST_C)
        ],
        worst_corruption=list(MEDMNIST_C)[int(errors.argmax())],
        per_class=[
            ClassScores(name=name, recall=float(recalls[k]), support=int(support[k]))
            for k, name in enumerate(classes)
        ],
        worst_class=classes[int(np.where(present, recalls, np.inf).argmin())],
        num_examples=len(labels),
    )


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
