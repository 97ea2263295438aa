"""How good predictions are: metrics with bootstrap intervals, calibration, and what TTA changed.

All functions take `labels` int[N] and `probabilities` float[N, C] whose rows sum to 1, and give plain Python
numbers without NaN, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.inference.temperature import FLOOR

Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating[Any]]

NUM_BINS = 15
"""Equal-width bins of the expected calibration error, arXiv:1706.04599."""
CONFIDENCE = 0.95
"""Of the intervals."""


def evaluate(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return all metrics of a split; only `num_examples` where it is empty."""
    if len(labels) == 0:
        return {"num_examples": 0}
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    numbers = range(len(classes))
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0
    )
    point = scores(labels, probabilities, np.ones((1, len(labels))))
    return {
        **{name: float(values[0]) for name, values in point.items()},
        "intervals": intervals(labels, probabilities, resamples=resamples, seed=seed),
        "per_class": [
            {
                "class": classes[k],
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": int(support[k]),
            }
            for k in numbers
        ],
        "confusion": confusion_matrix(labels, predicted, labels=numbers).tolist(),
        "reliability": reliability(labels, probabilities),
        "num_examples": len(labels),
    }


def scores(
    labels: Labels, probabilities: Probabilities, counts: NDArray[np.floating[Any]]
) -> dict[str, NDArray[np.float64]]:
    """Return each metric for each resample.

    Args:
        labels: int[N].
        probabilities: float[N, C].
        counts: float[R, N], how often each example is in each resample.

    Returns:
        accuracy, balanced_accuracy (mean recall of the classes present), macro_f1 (over all classes present
        or predicted), macro_auc (one-vs-rest, over the classes present), nll (nats), ece: float[R] each.
    """
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    totals = counts.sum(1)
    right = (predicted == labels).astype(np.float64)
    truth, chosen = np.eye(num_classes)[labels], np.eye(num_classes)[predicted]
    in_class, called, hits = counts @ truth, counts @ chosen, counts @ (truth * right[:, None])
    present = in_class > 0
    recall = np.divide(hits, in_class, out=np.zeros_like(hits), where=present)
    f1 = np.divide(2 * hits, in_class + called, out=np.zeros_like(hits), where=in_class + called > 0)
    relevant = in_class + called > 0
    likelihood = np.clip(probabilities[np.arange(len(labels)), labels], FLOOR, 1.0)
    return {
        "accuracy": counts @ right / totals,
        "balanced_accuracy": recall.sum(1) / present.sum(1),
        "macro_f1": f1.sum(1) / relevant.sum(1),
        "macro_auc": _macro_auc(labels, probabilities, counts),
        "nll": counts @ -np.log(likelihood) / totals,
        "ece": _ece(right, probabilities.max(1), counts),
    }


def intervals(
    labels: Labels, probabilities: Probabilities, *, resamples: int, seed: int
) -> dict[str, list[float]]:
    """Return the 95 % percentile bootstrap interval of each metric: {name: [low, high]}."""
    rng = np.random.default_rng(seed)
    num_examples = len(labels)
    collected: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, resamples, 100):  # a hundred at a time bounds the memory
        drawn = rng.multinomial(
            num_examples, np.full(num_examples, 1 / num_examples), size=min(100, resamples - start)
        )
        for name, values in scores(labels, probabilities, drawn.astype(np.float64)).items():
            collected.setdefault(name, []).append(values)
    tail = (1 - CONFIDENCE) / 2
    return {
        name: [float(bound) for bound in np.quantile(np.concatenate(values), [tail, 1 - tail])]
        for name, values in collected.items()
    }


def paired_interval(wins: int, losses: int, total: int, *, resamples: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the accuracy difference of two sets of answers to the same images.

    The percentile interval of a paired bootstrap: drawing N images with both answers of each is drawing how
    many of them only the new answers name rightly, only the old ones, and both or neither: the counts are
    multinomial.

    Args:
        wins: Images that only the new answers name rightly.
        losses: Images that only the old ones do.
        total: All images, N.
        resamples: How often they are drawn.
        seed: Of the draws.
    """
    shares = [wins / total, losses / total, (total - wins - losses) / total]
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / total, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: NDArray[np.floating[Any]], *, resamples: int, seed: int) -> list[float]:
    """Return the 95 % percentile bootstrap interval of the mean of float[N]: [low, high]."""
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
    tail = (1 - CONFIDENCE) / 2
    return [float(bound) for bound in np.quantile(np.concatenate(means), [tail, 1 - tail])]


def reliability(labels: Labels, probabilities: Probabilities) -> dict[str, list[float]]:
    """Return, per bin of the top probability, mean confidence, accuracy and count; empty bins are 0."""
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    bins = _bins(confidence)
    count = np.bincount(bins, minlength=NUM_BINS)
    safe = np.maximum(count, 1)
    return {
        "confidence": (np.bincount(bins, confidence, NUM_BINS) / safe).tolist(),
        "accuracy": (np.bincount(bins, right, NUM_BINS) / safe).tolist(),
        "count": count.tolist(),
    }


def flips(labels: Labels, plain: Probabilities, tta: Probabilities) -> dict[str, int]:
    """Return how many examples TTA turned right, turned wrong, or from one wrong class to another."""
    before, after = plain.argmax(1), tta.argmax(1)
    changed = before != after
    return {
        "to_right": int((changed & (after == labels)).sum()),
        "to_wrong": int((changed & (before == labels)).sum()),
        "changed_wrong": int((changed & (before != labels) & (after != labels)).sum()),
    }


def _bins(confidence: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    bins: NDArray[np.int64] = np.ceil(confidence * NUM_BINS).astype(np.int64) - 1
    return np.clip(bins, 0, NUM_BINS - 1)


def _ece(
    right: NDArray[np.float64], confidence: NDArray[np.floating[Any]], counts: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    membership = np.eye(NUM_BINS)[_bins(confidence)]
    gaps: NDArray[np.float64] = np.abs(counts @ (membership * (right - confidence)[:, None]))
    result: NDArray[np.float64] = gaps.sum(1) / counts.sum(1)
    return result


def _macro_auc(
    labels: Labels, probabilities: Probabilities, counts: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the mean one-vs-rest AUC: the share of (own, other) pairs in the right order, ties half."""
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
