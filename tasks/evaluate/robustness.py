"""How a model does on spoiled images: the heavy mix, and the eleven corruptions of MedMNIST-C.

Reads the val and test shards of ingest, batch by batch: each batch is decoded once and goes through every
corruption. The heavy mix (`tasks/evaluate/heavy_mix.py`) is asked about view by view, and has the metrics
that clean images have. MedMNIST-C (`tasks/evaluate/medmnist_c.py`) is scored plain alone: it is 55 passes
over the split as it is, and the views would make them several hundred.

Guarantees: memory does not grow with the number of images, but for their probabilities and a few bytes each;
an image's score follows from (seed, its id), not from the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

MOST_HEAVY_EXAMPLES = 12
"""The first image of each class is shown under the heavy mix, of at most so many classes."""


class Robustness(NamedTuple):
    """What a model says of the spoiled images of a split."""

    labels: NDArray[np.int64]
    """int64[N]."""
    heavy: Answers
    """The probabilities under the heavy mix."""
    named: NDArray[np.int64]
    """int64[K, 5, N], the class named under each corruption and severity; K is 0 where none is measured."""
    first: dict[int, NDArray[np.uint8]]
    """Row → uint8[H, W, 3]: of each class the first image, under the heavy mix; by class."""
    original: NDArray[np.uint8] | None
    """uint8[H, W, 3], the first image as it is; None where none is corrupted."""
    worst: list[NDArray[np.uint8]]
    """uint8[H, W, 3] each: the first image under each corruption at its worst."""

    def examples(self, views: Sequence[str]) -> Examples:
        """Return images to look at; those of the heavy mix as named over these views."""
        said = average([self.heavy[view] for view in views]).argmax(1)
        labels = self.labels.tolist()
        return Examples(
            [Spoiled("", image, labels[row], int(said[row])) for row, image in self.first.items()],
            self.original,
            [
                Spoiled(name, image, labels[0], int(answers[-1, 0]))
                for name, image, answers in zip(MEDMNIST_C, self.worst, self.named, strict=False)
            ],
        )


def measure(
    parents: Parents,
    model: Any,
    split: str,
    views: Sequence[str],
    *,
    batch_size: int,
    num_images: int,
    seed: int,
    medmnist_c: bool,
    progress: Callable[[int, int, str], None],
) -> Robustness:
    """Spoil the images of a split and ask the model.

    Args:
        parents: Holds `ingest`.
        model: A Keras model, float32[B, H, W, 3] in 0..255 → float32[B, C].
        split: val or test.
        views: The views that the heavy mix is shown in, `identity` among them.
        batch_size: Images at once on the device.
        num_images: How many of the split are taken, drawn by the seed; 0 for all.
        seed: Of the draw, the heavy mix and the corruptions.
        medmnist_c: Whether the eleven corruptions are measured, too.
        progress: Told how far it is: done, total, text.
    """
    facts = parents["ingest"].facts
    num_classes = len(facts["classes"])
    chosen = draw(int(facts["num_examples"][split]), num_images, seed)
    total = int(chosen.sum())
    corruptions = list(MEDMNIST_C) if medmnist_c else []
    labels = np.zeros(total, np.int64)
    spoken = np.zeros((len(views), total, num_classes), np.float32)
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
        spoken[:, rows] = predict_each(model, mixed, views, batch_size)
        for index, label in enumerate(truth):
            if len(first) < MOST_HEAVY_EXAMPLES and label not in labels[list(first)]:
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
    return Robustness(labels, dict(zip(views, spoken, strict=True)), named, ordered, original, worst)


def draw(total: int, num_images: int, seed: int) -> NDArray[np.bool_]:
    """Return bool[total]: which images of a split are taken. All, where 0 or more than there are is asked."""
    if not 0 < num_images < total:
        return np.ones(total, np.bool_)
    chosen = np.zeros(total, np.bool_)
    chosen[generator(seed, "robustness images", total).permutation(total)[:num_images]] = True
    return chosen


class Asker:
    """Has a model name images in full batches, in whatever numbers they come.

    A model is always given whole batches (see `hemaflow.tasks.inference.views.predict`): of 55 small sets of
    images, most of each batch would be filling.
    """

    def __init__(self, model: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._waiting: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
        self._num_waiting = 0

    def ask(self, images: NDArray[np.uint8], answers: NDArray[np.int64]) -> None:
        """Take images uint8[B, H, W, 3]; by `finish` at the latest, the class of each is in int64[B]."""
        self._waiting.append((images, answers))
        self._num_waiting += len(images)
        if self._num_waiting >= self._batch_size:
            self._predict(self._num_waiting - self._num_waiting % self._batch_size)

    def finish(self) -> None:
        """Name what is left."""
        if self._num_waiting:
            self._predict(self._num_waiting)

    def _predict(self, count: int) -> None:
        images = np.concatenate([images for images, _ in self._waiting])
        said = predict(self._model, images[:count], ("identity",), self._batch_size).argmax(1)
        left, start = [], 0
        for part, answers in self._waiting:
            known = min(max(count - start, 0), len(part))
            answers[:known] = said[start : start + known]
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
) -> dict[str, Any]:
    """Return what a model makes of MedMNIST-C, as plain numbers; only `num_examples` where there is no image.

    Args:
        labels: int64[N].
        named: int64[11, 5, N], the class named under each corruption (in MEDMNIST_C's order) and severity.
        classes: Names of the labels.
        resamples: Of the interval.
        seed: Of the resamples.

    Returns:
        accuracy, balanced_accuracy: Means over all corruptions and severities.
        intervals: Of the accuracy, by a bootstrap over the images, each with all that became of it.
        corruptions: Of each, accuracy and balanced_accuracy by severity; balanced_error, the mean over the
            severities of 1 − balanced accuracy; balanced_error_to_alexnet, that over AlexNet's, which the
            paper calls BE (arXiv:2406.17536).
        balanced_error, balanced_error_to_alexnet: Means over the corruptions.
        worst_corruption: That of the largest balanced error.
        per_class: Each class's recall over all corruptions and severities.
        worst_class: That of the least recall.
        num_examples: N.
    """
    if not len(labels):
        return {"num_examples": 0}
    right = named == labels
    support = np.bincount(labels, minlength=len(classes))
    found = np.stack([right[:, :, labels == k].sum(2) for k in range(len(classes))], axis=2)
    present = support > 0
    recall = found[:, :, present] / support[present]  # float64[11, 5, classes present]
    accuracy, balanced = right.mean(2), recall.mean(2)
    errors = 1 - balanced.mean(1)
    ratios = errors / np.array([ALEXNET_BALANCED_ERROR[name] for name in MEDMNIST_C])
    recalls = found.mean((0, 1)) / np.maximum(support, 1)
    return {
        "accuracy": float(accuracy.mean()),
        "balanced_accuracy": float(balanced.mean()),
        "intervals": {"accuracy": metrics.mean_interval(right.mean((0, 1)), resamples=resamples, seed=seed)},
        "balanced_error": float(errors.mean()),
        "balanced_error_to_alexnet": float(ratios.mean()),
        "corruptions": [
            {
                "corruption": name,
                "accuracy": accuracy[number].tolist(),
                "balanced_accuracy": balanced[number].tolist(),
                "balanced_error": float(errors[number]),
                "balanced_error_to_alexnet": float(ratios[number]),
            }
            for number, name in enumerate(MEDMNIST_C)
        ],
        "worst_corruption": list(MEDMNIST_C)[int(errors.argmax())],
        "per_class": [
            {"class": name, "recall": float(recalls[k]), "support": int(support[k])}
            for k, name in enumerate(classes)
        ],
        "worst_class": classes[int(np.where(present, recalls, np.inf).argmin())],
        "num_examples": len(labels),
    }


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
