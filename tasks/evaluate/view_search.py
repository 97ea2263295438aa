"""Chooses the views of test-time augmentation on the validation split.

Averaging over every view can make right predictions wrong (Shanmugam et al., Better Aggregation in Test-Time
Augmentation, arXiv:2011.11156). There are two conditions: `clean` images and, if robustness is measured, the
`heavy_mix` of spoiled ones. A set of views loses in a condition if it names fewer images of the condition
rightly than the set that it is compared with.

`keep_harmless` keeps all requested views if they lose in no condition, compared with the unchanged image;
otherwise it keeps the unchanged image alone.

`choose` searches greedily. It starts with the unchanged image. At each step it adds the view with the largest
gain over all conditions that loses in none, compared with the set so far, and it stops when no view gains.
The set that it found is used only if its gain over the unchanged image is significant: if the lower bound of
the 95 % paired bootstrap interval is above 0.

That interval is too narrow, since it treats the same images under two conditions as independent, and the gain
is too large, since the search looked at these images. So the interval only filters out chance finds. What the
views gain is measured on the test split.

Guarantees: on the validation images, the average over the chosen views is in no condition less accurate than
the unchanged image. The submission averages with the same arithmetic in the same order
(`hemaflow.tasks.inference.views.average`), so it predicts the same on these images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.core.run_metrics import ViewChoice, ViewStep
from hemaflow.tasks.evaluate.metrics import paired_interval
from hemaflow.tasks.inference.calibration import Labels, Probabilities
from hemaflow.tasks.predict.config import IDENTITY

Answers = Mapping[str, NDArray[np.float32]]
"""View → the model's probabilities for it, float32[N, C]."""


class Condition(NamedTuple):
    """The validation images in one condition, such as clean or under the heavy mix."""

    labels: Labels
    """int64[N], the true class of each image."""
    answers: Answers


@dataclass(frozen=True)
class Step:
    """One view that was added.

    Attributes:
        view: Its name.
        accuracy: Condition → accuracy with all views so far.
    """

    view: str
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The views to average over, and how they were chosen.

    Attributes:
        views: The views to average over, in order; only the unchanged image where no others help.
        steps: The path of the search: the unchanged image, then each view as it was added. It is longer than
            `views` if its result was not kept.
        gain: Accuracy gained at the end of the path over the unchanged image, over all conditions.
        interval: 95 % interval of the gain.
        reason: Why the path was not kept; "" if it was kept or there is none.
    """

    views: tuple[str, ...]
    steps: tuple[Step, ...]
    gain: float
    interval: tuple[float, float]
    reason: str = ""

    def entry(self, asked: str) -> ViewChoice:
        """Return the entry `tta` of the metrics; a prediction takes time in proportion to the views.

        Args:
            asked: The requested preset, or `search`.
        """
        return ViewChoice(
            asked=asked,
            views=list(self.views),
            steps=[ViewStep(view=step.view, accuracy=step.accuracy) for step in self.steps],
            gain=self.gain,
            interval=self.interval,
            reason=self.reason,
            times_slower=len(self.views),
        )


def choose(conditions: Mapping[str, Condition], *, max_views: int, resamples: int, seed: int) -> Choice:
    """Search the views that the conditions have probabilities for.

    Args:
        conditions: Name → condition; each has the same views, `identity` among them.
        max_views: Maximum number of views to average over.
        resamples: Number of bootstrap resamples of the interval.
        seed: Random seed of the bootstrap.

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
    """Keep the requested views unless they lose accuracy in any condition.

    Args:
        conditions: Name → condition, with probabilities for these views and for `identity`.
        views: The requested views, in order.
        resamples: Number of bootstrap resamples of the interval.
        seed: Random seed of the bootstrap.

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
    lost = ", ".join(
        f"{count} of {len(right[name])} {name.replace('_', ' ')} ones" for name, count in cost.items()
    )
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


def _right(labels: Labels, total: Probabilities, num_views: int) -> NDArray[np.bool_]:
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
