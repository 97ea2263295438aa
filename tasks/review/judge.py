"""Champion against challenger on one reference set: whether the challenger is promoted.

Reads `model.keras` of both, the test split of the challenger's ingest, and the views that each was evaluated
with. The champion's results are the parents `champion_ingest`, `champion_train` and `champion_evaluate`, the
challenger's are `ingest`, `train` and `evaluate`. Writes

    verdict.json   the decision, its reason in words, and every number it rests on

The rule: the challenger is promoted if the lower bound of the 95 % interval of the accuracy difference
(challenger − champion) is above −delta, and no class with at least `min_class_images` reference pictures
loses more than epsilon of its recall. So it need not be better, it must not be worse: it has learnt from
newer cells.

The interval is the percentile interval of a paired bootstrap: pictures are drawn with replacement, each with
the answers of both models (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). McNemar's
exact test (Psychometrika 12, 1947; its p by the binomial distribution) is given beside it and decides
nothing. The bootstrap sees only what disagreed: where a set is too small for delta, the verdict says so.

Guarantees: labels are matched by the names of classes, so that the two may know other classes in another
order; a class that the champion does not know counts as missed by it. Memory does not grow with the number of
pictures, but for a few bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from hemaflow.infra.errors import DataError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.evaluate.metrics import paired_interval
from hemaflow.tasks.inference.classifier import Classifier, split_batches
from hemaflow.tasks.train.data_overlap import images_of

PARENTS = ("champion_ingest", "champion_train", "champion_evaluate", "ingest", "train", "evaluate")
"""What `run` reads."""

Answers = NDArray[np.bool_]
"""bool[N]: whether a model named each reference picture rightly."""


class JudgeConfig(StageConfig):
    """All that changes the verdict."""

    delta: NonNegativeFloat = 0.005
    """Accuracy that may be lost: the interval's lower bound must be above −delta. Two equally good models
    that disagree on one picture in a hundred have an interval of ±0.0046 on 1,800 pictures: less could not be
    asked of them there."""
    epsilon: NonNegativeFloat = 0.03
    """Recall that one class may lose. Looser than delta, since a class has fewer pictures: three of a
    hundred; tight enough that no rare class is given up for a better mean."""
    min_class_images: PositiveInt = 20
    """From how many reference pictures on a class is judged by its recall: below, the 95 % interval of a
    recall is more than a fifth wide. A class of 20 to 33 pictures may lose none: one of them is more than
    epsilon."""
    bootstrap_resamples: PositiveInt = 10_000
    """Of the interval; the standard error of its bounds is then less than a hundredth of its width."""
    bootstrap_seed: NonNegativeInt = 0
    """Of the resamples."""
    batch_size: PositiveInt = 256
    """Images at once on the device; as in evaluate."""

    def rule(self) -> dict[str, Any]:
        """Return the numbers by which a verdict is reached."""
        return self.model_dump(mode="json", include={"delta", "epsilon", "min_class_images"})


def run(parents: Parents, config: JudgeConfig, draft: Draft) -> Manifest:
    """Predict the reference set with both, and decide. Raises DataError where it is empty."""
    ingest = parents["ingest"]
    if not ingest.facts["num_examples"]["test"]:
        raise DataError(
            "There is nothing to judge on: the test split of the challenger's data is empty.",
            where=f"stages/ingest/{ingest.key}",
            remedy="Give the data a test split, or name a reference set with ingest.reference.",
        )
    labels, champion = _answers(parents, "champion_", config, draft)
    _, challenger = _answers(parents, "", config, draft)
    verdict = decide(labels, champion, challenger, ingest.facts["classes"], config)
    verdict["notes"] += _notes(parents, labels)
    verdict["models"] = {
        side: {
            "sha256": parents[f"{prefix}train"].object("model.keras").sha256,
            "image_size_pixels": parents[f"{prefix}ingest"].facts["image_size_pixels"],
            "views": parents[f"{prefix}evaluate"].facts["tta_views"],
        }
        for side, prefix in (("champion", "champion_"), ("challenger", ""))
    }
    draft.put("verdict.json", json.dumps(verdict, indent=1, ensure_ascii=False, sort_keys=True).encode())
    short = ("promote", "reason", "rule", "num_images", "accuracy", "worst_class", "notes")
    return draft.commit(**{name: verdict[name] for name in short})


def decide(
    labels: NDArray[np.int64],
    champion: Answers,
    challenger: Answers,
    classes: Sequence[str],
    config: JudgeConfig,
) -> dict[str, Any]:
    """Return the verdict on two models' answers to the same pictures.

    Args:
        labels: int64[N], what each picture is.
        champion: bool[N].
        challenger: bool[N].
        classes: Names of the labels.
        config: The rule.
    """
    total = len(labels)
    wins, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    difference = (wins - losses) / total
    low, high = paired_interval(
        wins, losses, total, resamples=config.bootstrap_resamples, seed=config.bootstrap_seed
    )
    per_class = _per_class(labels, champion, challenger, classes, config)
    judged = [row for row in per_class if row["judged"]]
    worst = min(judged, key=lambda row: row["difference"], default=None)
    objections = []
    if not low > -config.delta:
        objections.append(f"the interval is not all above {_signed(-config.delta)}")
    objections += [
        f"{row['class']} loses {-row['difference']:.3f} of its recall, more than {config.epsilon:.3f}"
        for row in judged
        if -row["difference"] > config.epsilon
    ]
    found = f"accuracy {_signed(difference)} (95 % interval {_signed(low)} to {_signed(high)})"
    if worst:
        found += f", worst class {worst['class']} {_signed(worst['difference'])}"
    return {
        "promote": not objections,
        "reason": "; ".join([found, *objections]),
        "rule": config.rule(),
        "num_images": total,
        "accuracy": {
            "champion": float(champion.mean()),
            "challenger": float(challenger.mean()),
            "difference": difference,
            "interval": [low, high],
            "method": f"paired percentile bootstrap, {config.bootstrap_resamples} resamples",
        },
        "mcnemar": {"only_challenger": wins, "only_champion": losses, "p": mcnemar_p(wins, losses)},
        "per_class": per_class,
        "worst_class": worst and {name: worst[name] for name in ("class", "difference", "num_images")},
        "notes": _size_notes(total, per_class, config),
    }


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the two-sided p of McNemar's exact test; 1 where the two models agree on every picture."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _answers(
    parents: Parents, prefix: str, config: JudgeConfig, draft: Draft
) -> tuple[NDArray[np.int64], Answers]:
    """Return the labels of the reference pictures, and whether the model named each rightly."""
    ingest = parents["ingest"]
    views = parents[f"{prefix}evaluate"].facts["tta_views"]
    own = parents[f"{prefix}ingest"]
    classifier = Classifier.load(parents, parents[f"{prefix}train"], own, views, config.batch_size)
    classes: list[str] = ingest.facts["classes"]
    meant = np.array([classes.index(name) if name in classes else -1 for name in classifier.classes])
    labels: list[NDArray[np.int64]] = []
    right: list[Answers] = []
    done, total = 0, int(ingest.facts["num_examples"]["test"])
    for batch in split_batches(parents, ingest, "test", config.batch_size):
        labels.append(batch.labels)
        right.append(meant[classifier.probabilities(batch.images).argmax(1)] == batch.labels)
        done += len(batch.ids)
        draft.progress(done, total, f"reference images, {'champion' if prefix else 'challenger'}")
    return np.concatenate(labels), np.concatenate(right)


def _per_class(
    labels: NDArray[np.int64],
    champion: Answers,
    challenger: Answers,
    classes: Sequence[str],
    config: JudgeConfig,
) -> list[dict[str, Any]]:
    rows = []
    for label, name in enumerate(classes):
        own = labels == label
        count, before, now = int(own.sum()), int(champion[own].sum()), int(challenger[own].sum())
        rows.append(
            {
                "class": name,
                "num_images": count,
                "champion_right": before,
                "challenger_right": now,
                "difference": (now - before) / count if count else 0.0,
                "judged": count >= config.min_class_images,
            }
        )
    return rows


def _size_notes(total: int, per_class: Sequence[dict[str, Any]], config: JudgeConfig) -> list[str]:
    """Return what the sizes of the set and of its classes leave open."""
    notes = []
    # Of N pictures without one loss, a true loss of up to 3/N is compatible with it (Hanley & Lippman-Hand,
    # JAMA 249, 1983).
    if total * config.delta < 3:
        notes.append(
            f"{total} reference pictures are few: {3 / total:.3f} of accuracy may be lost without a sign."
        )
    small = [f"{row['class']} ({row['num_images']})" for row in per_class if not row["judged"]]
    if small:
        notes.append(
            f"Not judged by recall, fewer than {config.min_class_images} pictures: {', '.join(small)}."
        )
    return notes


def _notes(parents: Parents, labels: NDArray[np.int64]) -> list[str]:
    """Return what else a reader must know of how the two were compared."""
    ingest, own = parents["ingest"], parents["champion_ingest"]
    notes = []
    if not ingest.facts.get("reference"):
        notes.append("The reference set is the test split of the challenger's own data, not a fixed one.")
    sizes = own.facts["image_size_pixels"], ingest.facts["image_size_pixels"]
    if sizes[0] != sizes[1]:
        notes.append(
            f"The champion saw the pictures resized from {sizes[1]} to its {sizes[0]} pixels; whether it "
            "learnt from some of them cannot be told."
        )
    classes: list[str] = ingest.facts["classes"]
    for name in classes:
        count = int((labels == classes.index(name)).sum())
        if name not in own.facts["classes"] and count:
            notes.append(f"The champion does not know {name}: its {count} pictures count as missed by it.")
    learnt = len(images_of(parents.store, own, "train") & images_of(parents.store, ingest, "test"))
    if learnt:
        notes.append(f"The champion learnt from {learnt} of the reference pictures: it is favoured.")
    return notes


def _signed(value: float) -> str:
    """Return a difference for a person: `+0.012`, `−0.005`."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")
