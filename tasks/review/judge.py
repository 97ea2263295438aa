"""Judges a challenger against the champion on one reference set: whether the challenger is promoted.

Reads `model.keras` of both, the test split of the challenger's ingest, and the views that each was evaluated
with. The champion's results are the parents `champion_ingest`, `champion_train` and `champion_evaluate`, the
challenger's are `ingest`, `train` and `evaluate`. Writes

    verdict.json   the decision, its reason in words, and all numbers behind it (`tasks/review/results.py`)

The rule: the challenger is promoted if the lower bound of the 95 % interval of the accuracy difference
(challenger − champion) is above −delta, and no class with at least `min_class_images` reference images
loses more than epsilon of its recall. So it need not be better, but it must not be worse: it was trained on
newer cells.

The interval is the percentile interval of a paired bootstrap: images are drawn with replacement, each with
the predictions of both models (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). The
verdict also reports McNemar's exact test (Psychometrika 12, 1947; p by the binomial distribution), which
decides nothing. The bootstrap depends only on images where the models disagree: if a set is too small for
delta, the verdict says so.

Guarantees: labels are matched by class names, so the two models may have different classes in different
orders; images of a class that the champion lacks count as wrong for it. Memory does not grow with the number
of images, except for a few bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from hemaflow.infra.errors import DataError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import EvaluateFacts, IngestFacts
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.evaluate.metrics import paired_interval
from hemaflow.tasks.inference.classifier import Classifier, split_batches
from hemaflow.tasks.review.results import (
    AccuracyComparison,
    ClassComparison,
    JudgedModel,
    McNemar,
    Rule,
    Verdict,
    VerdictFacts,
    WorstClass,
)
from hemaflow.tasks.train.data_overlap import images_of

PARENTS = ("champion_ingest", "champion_train", "champion_evaluate", "ingest", "train", "evaluate")
"""What `run` reads."""

Answers = NDArray[np.bool_]
"""bool[N]: whether a model predicts each reference image right."""


class JudgeConfig(StageConfig):
    """All that changes the verdict."""

    delta: NonNegativeFloat = 0.005
    """Accuracy that may be lost: the interval's lower bound must be above −delta. Two equally good models
    that disagree on 1 % of 1,800 images have an interval of ±0.0046, so a smaller delta would refuse them."""
    epsilon: NonNegativeFloat = 0.03
    """Recall that one class may lose. It is looser than delta because a class has fewer images, and tight
    enough that no rare class is given up for a better mean."""
    min_class_images: PositiveInt = 20
    """Minimum number of reference images of a class that is judged by its recall. With fewer, the 95 %
    interval of a recall is wider than 0.2. A class of 20 to 33 images may lose none: one of them is more than
    epsilon."""
    bootstrap_resamples: PositiveInt = 10_000
    """Number of bootstrap resamples. With 10,000, the standard error of the interval's bounds is below 1 % of
    its width."""
    bootstrap_seed: NonNegativeInt = 0
    """Random seed of the bootstrap."""
    batch_size: PositiveInt = 256
    """Number of images at once on the device, as in evaluate."""

    def rule(self) -> Rule:
        """Return the numbers that decide."""
        return Rule(delta=self.delta, epsilon=self.epsilon, min_class_images=self.min_class_images)


def run(parents: Parents, config: JudgeConfig, draft: Draft) -> Manifest:
    """Predict the reference set with both models, and decide. Raises DataError where it is empty."""
    ingest = parents["ingest"]
    facts = IngestFacts.of(ingest)
    if not facts.num_examples["test"]:
        raise DataError(
            "There is nothing to judge on: the test split of the challenger's data is empty.",
            where=f"stages/ingest/{ingest.key}",
            remedy="Give the data a test split, or name a reference set with ingest.reference.",
        )
    labels, champion = _answers(parents, "champion_", config, draft)
    _, challenger = _answers(parents, "", config, draft)
    decided = decide(labels, champion, challenger, facts.classes, config)
    models = {
        side: JudgedModel(
            sha256=parents[f"{prefix}train"].object("model.keras").sha256,
            image_size_pixels=IngestFacts.of(parents[f"{prefix}ingest"]).image_size_pixels,
            views=EvaluateFacts.of(parents[f"{prefix}evaluate"]).tta_views,
        )
        for side, prefix in (("champion", "champion_"), ("challenger", ""))
    }
    notes = [*decided.notes, *_notes(parents, labels)]
    document = decided.model_copy(update={"notes": notes, "models": models}).document()
    draft.put("verdict.json", json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode())
    return VerdictFacts.model_validate({name: document[name] for name in VerdictFacts.model_fields}).commit(
        draft
    )


def decide(
    labels: NDArray[np.int64],
    champion: Answers,
    challenger: Answers,
    classes: Sequence[str],
    config: JudgeConfig,
) -> Verdict:
    """Return the verdict on two models' predictions for the same images.

    Args:
        labels: int64[N], the true class of each image.
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
    judged = [row for row in per_class if row.judged]
    worst = min(judged, key=lambda row: row.difference, default=None)
    objections = []
    if not low > -config.delta:
        objections.append(f"the interval is not all above {_signed(-config.delta)}")
    objections += [
        f"{row.name} loses {-row.difference:.3f} of its recall, more than {config.epsilon:.3f}"
        for row in judged
        if -row.difference > config.epsilon
    ]
    found = f"accuracy {_signed(difference)} (95 % interval {_signed(low)} to {_signed(high)})"
    if worst:
        found += f", worst class {worst.name} {_signed(worst.difference)}"
    return Verdict(
        promote=not objections,
        reason="; ".join([found, *objections]),
        rule=config.rule(),
        num_images=total,
        accuracy=AccuracyComparison(
            champion=float(champion.mean()),
            challenger=float(challenger.mean()),
            difference=difference,
            interval=(low, high),
            method=f"paired percentile bootstrap, {config.bootstrap_resamples} resamples",
        ),
        mcnemar=McNemar(only_challenger=wins, only_champion=losses, p=mcnemar_p(wins, losses)),
        per_class=per_class,
        worst_class=None
        if worst is None
        else WorstClass(name=worst.name, difference=worst.difference, num_images=worst.num_images),
        notes=_size_notes(total, per_class, config),
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the two-sided p value of McNemar's exact test; 1 where the models agree on every image."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _answers(
    parents: Parents, prefix: str, config: JudgeConfig, draft: Draft
) -> tuple[NDArray[np.int64], Answers]:
    """Return the labels of the reference images, and whether the model predicts each right."""
    ingest = parents["ingest"]
    facts = IngestFacts.of(ingest)
    views = EvaluateFacts.of(parents[f"{prefix}evaluate"]).tta_views
    own = parents[f"{prefix}ingest"]
    classifier = Classifier.load(parents, parents[f"{prefix}train"], own, views, config.batch_size)
    classes = facts.classes
    matched = np.array([classes.index(name) if name in classes else -1 for name in classifier.classes])
    labels: list[NDArray[np.int64]] = []
    right: list[Answers] = []
    done, total = 0, facts.num_examples["test"]
    for batch in split_batches(parents, ingest, "test", config.batch_size):
        labels.append(batch.labels)
        right.append(matched[classifier.probabilities(batch.images).argmax(1)] == batch.labels)
        done += len(batch.ids)
        draft.progress(done, total, f"reference images, {'champion' if prefix else 'challenger'}")
    return np.concatenate(labels), np.concatenate(right)


def _per_class(
    labels: NDArray[np.int64],
    champion: Answers,
    challenger: Answers,
    classes: Sequence[str],
    config: JudgeConfig,
) -> list[ClassComparison]:
    rows = []
    for label, name in enumerate(classes):
        own = labels == label
        count, before, now = int(own.sum()), int(champion[own].sum()), int(challenger[own].sum())
        rows.append(
            ClassComparison(
                name=name,
                num_images=count,
                champion_right=before,
                challenger_right=now,
                difference=(now - before) / count if count else 0.0,
                judged=count >= config.min_class_images,
            )
        )
    return rows


def _size_notes(total: int, per_class: Sequence[ClassComparison], config: JudgeConfig) -> list[str]:
    """Return notes on a reference set or classes that are too small."""
    notes = []
    # N images without one loss are compatible with a true loss of up to 3/N (Hanley & Lippman-Hand, JAMA 249,
    # 1983).
    if total * config.delta < 3:
        notes.append(
            f"{total} reference images are few: a loss of {3 / total:.3f} of accuracy may go unnoticed."
        )
    small = [f"{row.name} ({row.num_images})" for row in per_class if not row.judged]
    if small:
        notes.append(
            f"Not judged by recall, fewer than {config.min_class_images} images: {', '.join(small)}."
        )
    return notes


def _notes(parents: Parents, labels: NDArray[np.int64]) -> list[str]:
    """Return notes on how the two models were compared."""
    ingest, own = parents["ingest"], parents["champion_ingest"]
    facts, own_facts = IngestFacts.of(ingest), IngestFacts.of(own)
    notes = []
    if not facts.reference:
        notes.append("The reference set is the test split of the challenger's own data, not a fixed one.")
    sizes = own_facts.image_size_pixels, facts.image_size_pixels
    if sizes[0] != sizes[1]:
        notes.append(
            f"The champion saw the images resized from {sizes[1]} to its {sizes[0]} pixels; it may have been "
            "trained on some of them."
        )
    for label, name in enumerate(facts.classes):
        count = int((labels == label).sum())
        if name not in own_facts.classes and count:
            notes.append(f"The champion does not know {name}: its {count} images count as wrong for it.")
    overlap = len(images_of(parents.store, own, "train") & images_of(parents.store, ingest, "test"))
    if overlap:
        notes.append(f"The champion was trained on {overlap} of the reference images: it has an advantage.")
    return notes


def _signed(value: float) -> str:
    """Return a difference for a person: `+0.012`, `−0.005`."""
    return f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")
