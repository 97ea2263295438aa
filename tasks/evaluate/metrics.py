"""Metrics of predictions, with bootstrap intervals, calibration, and the changes made by TTA.

All functions take `labels` int64[N] and `probabilities` float[N, C] whose rows sum to 1, and return numbers
without NaN.

Adding a scalar metric is adding one function here, and its test:

    @metric("kappa", "Cohen's kappa", "agreement beyond chance; 1 is best")
    def kappa(sample: Resamples) -> Values: ...

evaluate then writes it with its interval, and the report and the pages of Prefect show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hemaflow.infra.registry import Registry
from hemaflow.tasks.core.run_metrics import ClassScores, Flips, Reliability, SplitMetrics
from hemaflow.tasks.inference import calibration
from hemaflow.tasks.inference.calibration import NUM_BINS, Labels, Probabilities, Values, bins

CONFIDENCE = 0.95
"""Confidence level of the intervals."""


class MetricText(NamedTuple):
    """How pages show a scalar metric."""

    title: str
    meaning: str
    """What the metric says, in a few words."""
    percent: bool = False
    """Whether it is shown in percent."""


@dataclass(frozen=True)
class Resamples:
    """Resamples of one set of predictions, with what several metrics are computed from.

    Attributes:
        labels: int64[N].
        probabilities: float[N, C].
        counts: float64[R, N], how often each example is in each resample.
    """

    labels: Labels
    probabilities: Probabilities
    counts: Values

    @cached_property
    def predicted(self) -> Labels:
        """int64[N], the most probable class."""
        predicted: Labels = self.probabilities.argmax(1)
        return predicted

    @cached_property
    def right(self) -> Values:
        """float64[N], 1 where the prediction is right."""
        right: Values = (self.predicted == self.labels).astype(np.float64)
        return right

    @cached_property
    def totals(self) -> Values:
        """float64[R], the examples in each resample."""
        totals: Values = self.counts.sum(1)
        return totals

    @cached_property
    def in_class(self) -> Values:
        """float64[R, C], the examples of each class."""
        return self._count(self.labels)

    @cached_property
    def called(self) -> Values:
        """float64[R, C], the examples predicted as each class."""
        return self._count(self.predicted)

    @cached_property
    def hits(self) -> Values:
        """float64[R, C], the examples of each class that are predicted right."""
        truth: Values = np.eye(self.probabilities.shape[1])[self.labels]
        hits: Values = self.counts @ (truth * self.right[:, None])
        return hits

    def _count(self, classes: Labels) -> Values:
        counted: Values = self.counts @ np.eye(self.probabilities.shape[1])[classes]
        return counted


class Metric(NamedTuple):
    """A scalar metric."""

    text: MetricText
    """How pages show it."""
    compute: Callable[[Resamples], Values]
    """Returns float64[R], the metric of each resample."""


METRICS: Registry[Metric] = Registry("metric")
"""The scalar metrics, in the order in which pages show them."""


def metric(
    name: str, title: str, meaning: str, *, percent: bool = False
) -> Callable[[Callable[[Resamples], Values]], Callable[[Resamples], Values]]:
    """Register the decorated function as a scalar metric.

    Args:
        name: Its key in metrics.json.
        title: Its name on pages.
        meaning: What it says, in a few words.
        percent: Whether pages show it in percent.
    """

    def add(compute: Callable[[Resamples], Values]) -> Callable[[Resamples], Values]:
        METRICS.register(name)(Metric(MetricText(title, meaning, percent), compute))
        return compute

    return add


@metric("accuracy", "Accuracy", "share of the images named right", percent=True)
def accuracy(sample: Resamples) -> Values:
    """Return the share of right predictions."""
    shares: Values = sample.counts @ sample.right / sample.totals
    return shares


@metric(
    "balanced_accuracy",
    "Balanced accuracy",
    "mean recall of the classes: rare ones count like common ones",
    percent=True,
)
def balanced_accuracy(sample: Resamples) -> Values:
    """Return the mean recall of the classes present."""
    present = sample.in_class > 0
    recall = np.divide(sample.hits, sample.in_class, out=np.zeros_like(sample.hits), where=present)
    means: Values = recall.sum(1) / present.sum(1)
    return means


@metric(
    "macro_f1", "Macro F1", "mean over the classes of F1, which weighs precision and recall", percent=True
)
def macro_f1(sample: Resamples) -> Values:
    """Return the mean F1 of the classes that are present or predicted."""
    either = sample.in_class + sample.called
    relevant = either > 0
    f1 = np.divide(2 * sample.hits, either, out=np.zeros_like(sample.hits), where=relevant)
    means: Values = f1.sum(1) / relevant.sum(1)
    return means


@metric("macro_auc", "Macro AUC", "how well each class's probability ranks its own images before all others")
def macro_auc(sample: Resamples) -> Values:
    """Return the mean one-vs-rest AUC: the share of (own, other) pairs in the right order, ties half."""
    labels, probabilities, counts = sample.labels, sample.probabilities, sample.counts
    areas = np.zeros((len(counts), probabilities.shape[1]))
    defined = np.zeros_like(areas)
    for k in range(probabilities.shape[1]):
        order = np.argsort(probabilities[:, k], kind="stable")
        sorted_scores, weights = probabilities[order, k], counts[:, order]
        own = weights * (labels[order] == k)
        others = weights - own
        starts = np.flatnonzero(np.r_[True, sorted_scores[1:] != sorted_scores[:-1]])
        own_of_score = np.add.reduceat(own, starts, axis=1)
        others_of_score = np.add.reduceat(others, starts, axis=1)
        below = np.cumsum(others_of_score, axis=1) - others_of_score
        pairs = own.sum(1) * others.sum(1)
        ordered = (own_of_score * (below + 0.5 * others_of_score)).sum(1)
        defined[:, k] = pairs > 0
        areas[:, k] = np.divide(ordered, pairs, out=np.zeros(len(counts)), where=pairs > 0)
    num_defined = defined.sum(1)
    means = np.full(len(counts), 0.5)
    np.divide(areas.sum(1), num_defined, out=means, where=num_defined > 0)
    return means


@metric(
    "ece", "ECE", "expected calibration error: how far stated certainty is from the share right; 0 is best"
)
def ece(sample: Resamples) -> Values:
    """Return the expected calibration error over bins of equal width (arXiv:1706.04599)."""
    return calibration.ece(sample.labels, sample.probabilities, sample.counts)


@metric("nll", "NLL", "negative log-likelihood of the true class; 0 is best")
def nll(sample: Resamples) -> Values:
    """Return the mean negative log-likelihood in nats; probabilities below FLOOR count as FLOOR."""
    return calibration.nll(sample.labels, sample.probabilities, sample.counts)


def evaluate(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], *, resamples: int, seed: int
) -> SplitMetrics:
    """Return all metrics of a split; only `num_examples` where it is empty."""
    if len(labels) == 0:
        return SplitMetrics(num_examples=0)
    from sklearn.metrics import confusion_matrix

    numbers = range(len(classes))
    predicted = probabilities.argmax(1)
    point = scores(labels, probabilities, np.ones((1, len(labels))))
    return SplitMetrics.model_validate(
        {
            **{name: float(values[0]) for name, values in point.items()},
            "intervals": intervals(labels, probabilities, resamples=resamples, seed=seed),
            "per_class": class_scores(labels, predicted, classes, numbers),
            "confusion": confusion_matrix(labels, predicted, labels=numbers).tolist(),
            "reliability": reliability(labels, probabilities),
            "num_examples": len(labels),
        }
    )


def class_scores(
    labels: Labels, predicted: Labels, classes: Sequence[str], numbers: Sequence[int]
) -> list[ClassScores]:
    """Return the scores of some classes.

    Args:
        labels: int64[N], the true labels.
        predicted: int64[N], the predicted ones.
        classes: Names of the labels 0, 1, …
        numbers: The labels to score, in the order of the result.
    """
    from sklearn.metrics import precision_recall_fscore_support

    found = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    return [
        ClassScores(
            name=classes[label],
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            support=int(support),
        )
        for label, precision, recall, f1, support in zip(numbers, *found, strict=True)
    ]


def scores(labels: Labels, probabilities: Probabilities, counts: Values) -> dict[str, Values]:
    """Return each scalar metric of each resample.

    Args:
        labels: int64[N].
        probabilities: float[N, C].
        counts: float64[R, N], how often each example is in each resample.

    Returns:
        Name in METRICS → float64[R].
    """
    sample = Resamples(labels, probabilities, counts)
    return {name: registered.compute(sample) for name, registered in METRICS.items()}


def intervals(
    labels: Labels, probabilities: Probabilities, *, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile bootstrap interval of each scalar metric: {name: (low, high)}."""
    rng = np.random.default_rng(seed)
    num_examples = len(labels)
    collected: dict[str, list[Values]] = {}
    for start in range(0, resamples, 100):  # a hundred at a time bounds the memory
        drawn = rng.multinomial(
            num_examples, np.full(num_examples, 1 / num_examples), size=min(100, resamples - start)
        )
        for name, values in scores(labels, probabilities, drawn.astype(np.float64)).items():
            collected.setdefault(name, []).append(values)
    return {name: _bounds(np.concatenate(values)) for name, values in collected.items()}


def paired_interval(wins: int, losses: int, total: int, *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy difference between two sets of predictions for one split.

    It is the percentile interval of a paired bootstrap. A resample of N images with both predictions needs
    only three counts: images that only the new predictions have right, images that only the old ones have
    right, and all others. These counts are multinomial.

    Args:
        wins: Images that only the new predictions have right.
        losses: Images that only the old predictions have right.
        total: All images, N.
        resamples: Number of resamples.
        seed: Random seed.
    """
    shares = [wins / total, losses / total, (total - wins - losses) / total]
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    return _bounds((drawn[:, 0] - drawn[:, 1]) / total)


def mean_interval(values: Values, *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of float64[N]: (low, high)."""
    rng = np.random.default_rng(seed)
    num_examples = len(values)
    means = [
        rng.multinomial(
            num_examples, np.full(num_examples, 1 / num_examples), size=min(100, resamples - start)
        )
        @ values
        / num_examples
        for start in range(0, resamples, 100)  # a hundred at a time bounds the memory
    ]
    return _bounds(np.concatenate(means))


def reliability(labels: Labels, probabilities: Probabilities) -> Reliability:
    """Return mean confidence, accuracy and count in each bin of the top probability; empty bins are 0."""
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    places = bins(confidence)
    count = np.bincount(places, minlength=NUM_BINS)
    safe = np.maximum(count, 1)
    return Reliability(
        confidence=(np.bincount(places, confidence, NUM_BINS) / safe).tolist(),
        accuracy=(np.bincount(places, right, NUM_BINS) / safe).tolist(),
        count=count.tolist(),
    )


def flips(labels: Labels, plain: Probabilities, tta: Probabilities) -> Flips:
    """Return how many predictions TTA made right, made wrong, or changed between two wrong classes."""
    before, after = plain.argmax(1), tta.argmax(1)
    changed = before != after
    return Flips(
        to_right=int((changed & (after == labels)).sum()),
        to_wrong=int((changed & (before == labels)).sum()),
        changed_wrong=int((changed & (before != labels) & (after != labels)).sum()),
    )


def _bounds(values: Values) -> tuple[float, float]:
    """Return the two quantiles that leave CONFIDENCE between them."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
