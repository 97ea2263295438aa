"""Which views to average over: searched on val, kept only where they help.

Averaging over every view costs images that were right without (Shanmugam et al., Better Aggregation in
Test-Time Augmentation, arXiv:2011.11156). The search is greedy: it begins with the image itself, adds the
view that brings most over all conditions, such as clean and corrupted, and takes nothing from any of them,
and stops where none does. What is found replaces the image alone only if the gain over all conditions is more
than chance: the lower bound of its 95 % paired bootstrap interval is above 0.

Guarantees: on the images it was searched on, the choice is in no condition less accurate than the image
alone. The sums are those of `tasks.views.predict`, view by view, so that this holds of what is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics import Labels, paired_interval

IDENTITY = "identity"

Answers = Mapping[str, NDArray[np.float32]]
"""View → the model's probabilities of it, float32[N, C]."""


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
    """What the search came to.

    Attributes:
        views: The views to average over, in order; the image alone where no others help.
        steps: The greedy path, the image alone first; it may go on beyond `views` where what it found is no
            more than chance.
        gain: Accuracy gained at the end of the path over the image alone, all conditions together.
        interval: Its 95 % interval.
    """

    views: tuple[str, ...]
    steps: tuple[Step, ...]
    gain: float
    interval: tuple[float, float]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; the time of a prediction grows with the number of views."""
        return {
            "views": list(self.views),
            "steps": [{"view": step.view, "accuracy": step.accuracy} for step in self.steps],
            "gain": self.gain,
            "interval": list(self.interval),
            "times_slower": len(self.views),
        }


def choose(
    labels: Labels, answers: Mapping[str, Answers], *, max_views: int, resamples: int, seed: int
) -> Choice:
    """Search among the views that were answered for.

    Args:
        labels: int[N], what each image is.
        answers: Condition → view → probabilities; the same views, `identity` among them, in each condition.
        max_views: How many views may be averaged over.
        resamples: Of the interval.
        seed: Of the resamples.

    Raises:
        ValueError: There is no condition, or one lacks `identity` or has other views than the rest.
    """
    views = _common_views(answers)
    sums = {condition: views_of[IDENTITY].astype(np.float64) for condition, views_of in answers.items()}
    right = {condition: _right(labels, total, 1) for condition, total in sums.items()}
    alone = right
    chosen, steps = [IDENTITY], [Step(IDENTITY, _accuracy(right))]
    while len(chosen) < max_views:
        found = None
        for view in (name for name in views if name not in chosen):
            tried = {c: _right(labels, sums[c] + answers[c][view], len(chosen) + 1) for c in answers}
            harmless = all(tried[c].sum() >= right[c].sum() for c in answers)
            if harmless and _total(tried) > _total(found[1] if found else right):
                found = view, tried
        if found is None:
            break
        view, right = found
        sums = {condition: total + answers[condition][view] for condition, total in sums.items()}
        chosen.append(view)
        steps.append(Step(view, _accuracy(right)))
    now, before = (np.concatenate(list(each.values())) for each in (right, alone))
    wins, losses, total = int((now & ~before).sum()), int((before & ~now).sum()), max(1, len(now))
    interval = paired_interval(wins, losses, total, resamples=resamples, seed=seed)
    kept = tuple(chosen) if interval[0] > 0 else (IDENTITY,)
    return Choice(kept, tuple(steps), (wins - losses) / total, interval)


def _common_views(answers: Mapping[str, Answers]) -> Sequence[str]:
    names = [tuple(sorted(views)) for views in answers.values()]
    if not names or IDENTITY not in names[0] or any(other != names[0] for other in names):
        raise ValueError(
            f"Expected the same views in every condition, {IDENTITY} among them. "
            f"Received: {sorted(set(names))}"
        )
    return list(next(iter(answers.values())))


def _right(labels: Labels, total: NDArray[np.float64], num_views: int) -> NDArray[np.bool_]:
    named = (total / num_views).astype(np.float32).argmax(1)
    right: NDArray[np.bool_] = named == labels
    return right


def _total(right: Mapping[str, NDArray[np.bool_]]) -> int:
    return sum(int(each.sum()) for each in right.values())


def _accuracy(right: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    return {condition: float(each.mean()) if len(each) else 0.0 for condition, each in right.items()}
