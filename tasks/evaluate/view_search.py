"""Which views to average over: held against val, and kept only where they cost nothing.

Averaging over every view costs images that were right without (Shanmugam et al., Better Aggregation in
Test-Time Augmentation, arXiv:2011.11156). So views that somebody asked for are kept only if they cost no
image in any condition, such as clean and spoiled (`keep_harmless`); or they are searched for (`choose`).

The search is greedy: it begins with the image itself, adds the view that brings most over all conditions and
takes nothing from any of them, and stops where none does. What is found replaces the image alone only if the
gain over all conditions is more than chance: the lower bound of its 95 % paired bootstrap interval is above
0. That interval takes the images of each condition as drawn by themselves, and what was searched for looks
better where it was searched than elsewhere: it keeps chance finds out, test tells what the views are worth.

Guarantees: on the images they were held against, the views kept are in no condition less accurate than the
image alone. The sums are those of `hemaflow.tasks.inference.views.average`, view by view: it holds of what is
submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.evaluate.metrics import Labels, paired_interval

IDENTITY = "identity"

Answers = Mapping[str, NDArray[np.float32]]
"""View → the model's probabilities of it, float32[N, C]."""


class Condition(NamedTuple):
    """What views are held against: the same images in one condition, such as clean or spoiled."""

    labels: Labels
    """int[N], what each image is."""
    answers: Answers


@dataclass(frozen=True)
class Step:
    """One view that was added.

    Attributes:
        view: Its name.
        accuracy: Condition → accuracy over all the views so far.
    """

    view: str
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """What came of it.

    Attributes:
        views: The views to average over, in order; the image alone where no others help.
        steps: The path, the image alone first, then each view as it was added; it may go on beyond `views`
            where what it came to was not kept.
        gain: Accuracy gained at the end of the path over the image alone, all conditions together.
        interval: Its 95 % interval.
        reason: Why the path was not kept; "" where it was, or where there is none.
    """

    views: tuple[str, ...]
    steps: tuple[Step, ...]
    gain: float
    interval: tuple[float, float]
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; the time of a prediction grows with the number of views."""
        return {
            "views": list(self.views),
            "steps": [{"view": step.view, "accuracy": step.accuracy} for step in self.steps],
            "gain": self.gain,
            "interval": list(self.interval),
            "reason": self.reason,
            "times_slower": len(self.views),
        }


def choose(conditions: Mapping[str, Condition], *, max_views: int, resamples: int, seed: int) -> Choice:
    """Search among the views that were answered for.

    Args:
        conditions: Name → condition; the same views, `identity` among them, in each.
        max_views: How many views may be averaged over.
        resamples: Of the interval.
        seed: Of the resamples.

    Raises:
        ValueError: There is no condition, or one lacks `identity` or has other views than the rest.
    """
    views = _common_views(conditions)
    sums = {name: given.answers[IDENTITY].astype(np.float64) for name, given in conditions.items()}
    right = {name: _right(given.labels, sums[name], 1) for name, given in conditions.items()}
    alone = right
    chosen, steps = [IDENTITY], [Step(IDENTITY, _accuracy(right))]
    while len(chosen) < max_views:
        found = None
        for view in (name for name in views if name not in chosen):
            tried = {
                name: _right(given.labels, sums[name] + given.answers[view], len(chosen) + 1)
                for name, given in conditions.items()
            }
            if not _cost(right, tried) and _total(tried) > _total(found[1] if found else right):
                found = view, tried
        if found is None:
            break
        view, right = found
        sums = {name: total + conditions[name].answers[view] for name, total in sums.items()}
        chosen.append(view)
        steps.append(Step(view, _accuracy(right)))
    gain, interval = _gain(alone, right, resamples=resamples, seed=seed)
    if interval[0] > 0:
        return Choice(tuple(chosen), tuple(steps), gain, interval)
    reason = "what they gained on val may be chance" if len(chosen) > 1 else "no view gained anything on val"
    return Choice((IDENTITY,), tuple(steps), gain, interval, reason)


def keep_harmless(
    conditions: Mapping[str, Condition], views: Sequence[str], *, resamples: int, seed: int
) -> Choice:
    """Keep the views that were asked for, unless they cost accuracy in any condition.

    Args:
        conditions: Name → condition, with answers for these views and for `identity`.
        views: Those asked for, in order.
        resamples: Of the interval.
        seed: Of the resamples.

    Raises:
        ValueError: There is no condition, or one lacks `identity` or has other views than the rest.
    """
    _common_views(conditions)
    alone = {name: _right(given.labels, given.answers[IDENTITY], 1) for name, given in conditions.items()}
    sums = {name: np.zeros(given.answers[IDENTITY].shape, np.float64) for name, given in conditions.items()}
    right, steps = alone, [Step(IDENTITY, _accuracy(alone))]
    for number, view in enumerate(views, start=1):
        sums = {name: total + conditions[name].answers[view] for name, total in sums.items()}
        right = {name: _right(given.labels, sums[name], number) for name, given in conditions.items()}
        if number > 1 or view != IDENTITY:
            steps.append(Step(view, _accuracy(right)))
    gain, interval = _gain(alone, right, resamples=resamples, seed=seed)
    cost = _cost(alone, right)
    if not cost:
        return Choice(tuple(views), tuple(steps), gain, interval)
    lost = ", ".join(f"{count} of {len(right[name])} {name} ones" for name, count in cost.items())
    reason = f"averaged over them, fewer val images are right: {lost} lost"
    return Choice((IDENTITY,), tuple(steps), gain, interval, reason)


def _common_views(conditions: Mapping[str, Condition]) -> Sequence[str]:
    names = [tuple(sorted(given.answers)) for given in conditions.values()]
    if not names or IDENTITY not in names[0] or any(other != names[0] for other in names):
        raise ValueError(
            f"Expected the same views in every condition, {IDENTITY} among them. "
            f"Received: {sorted(set(names))}"
        )
    return list(next(iter(conditions.values())).answers)


def _right(labels: Labels, total: NDArray[np.floating[Any]], num_views: int) -> NDArray[np.bool_]:
    named = (total / num_views).astype(np.float32).argmax(1)
    right: NDArray[np.bool_] = named == labels
    return right


def _cost(before: Mapping[str, NDArray[np.bool_]], now: Mapping[str, NDArray[np.bool_]]) -> dict[str, int]:
    """Return each condition with fewer right answers than before, and how many fewer."""
    lost = {name: int(before[name].sum()) - int(now[name].sum()) for name in before}
    return {name: count for name, count in lost.items() if count > 0}


def _gain(
    before: Mapping[str, NDArray[np.bool_]],
    now: Mapping[str, NDArray[np.bool_]],
    *,
    resamples: int,
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """Return the accuracy gained, all conditions together, and its 95 % interval."""
    after, earlier = (np.concatenate(list(each.values())) for each in (now, before))
    wins, losses = int((after & ~earlier).sum()), int((earlier & ~after).sum())
    total = max(1, len(after))
    interval = paired_interval(wins, losses, total, resamples=resamples, seed=seed)
    return (wins - losses) / total, interval


def _total(right: Mapping[str, NDArray[np.bool_]]) -> int:
    return sum(int(each.sum()) for each in right.values())


def _accuracy(right: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    return {name: float(each.mean()) if len(each) else 0.0 for name, each in right.items()}
