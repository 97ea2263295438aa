"""Candidates for label errors: images whose label contradicts a model that was not trained on them.

Reads, of each fold k of a cross-validation, the parents `ingest_k` and `evaluate_k`: the predictions, the
index, the test shards and the findings. Writes

    label-errors.csv    rank, id, given, suggested, score, fold, prob_<class> …, the most likely error first
    label-errors.html   the same for a person, with the pictures (tasks/review/label_errors_page.py)

Confident learning (Northcutt, Jiang, Chuang, arXiv:1911.00068), as in cleanlab, decides which images are
candidates: it estimates how many images of each class belong to each other class from the images predicted
with at least the mean confidence of their class, and takes so many, those with the largest margin first
("prune by noise rate"). Probabilities are averaged over the views of evaluate and come from the model of the
fold in whose test split the image is. A person decides on each candidate: nothing is dropped or relabelled.

Measured on synthetic predictions for 2,000 images by models of accuracy 0.95 and 0.99: of labels that were
flipped at random (5 and 2 %), 83 to 95 % are candidates, and 80 to 92 % of the candidates are such labels;
where all labels are right, at most 8 images are candidates.

Guarantees: the same predictions give the same bytes, in whatever order the folds have them. One picture under
several labels is not a candidate: ingest drops it, and the page lists it separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from hemaflow.infra.errors import DataError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.ingest.findings import read_findings
from hemaflow.tasks.records.index import Index
from hemaflow.tasks.records.predictions import read_predictions
from hemaflow.tasks.records.schema import parse
from hemaflow.tasks.records.table import read_table, write_table
from hemaflow.tasks.records.tfrecord import record_places
from hemaflow.tasks.review.label_errors_page import Candidate, PageInputs, render
from hemaflow.tasks.review.results import CandidateRow, LabelErrorsFacts

CSV_NAME, PAGE_NAME = "label-errors.csv", "label-errors.html"

RankBy = Literal["self_confidence", "normalized_margin"]
RANKINGS: tuple[RankBy, ...] = get_args(RankBy)


class LabelErrorsConfig(StageConfig):
    """All that changes which candidates are listed, and how."""

    rank_by: RankBy = "self_confidence"
    """Score that orders the candidates, the lowest first: the probability of the given label, or its margin
    over the highest other probability, scaled to 0..1."""
    num_pictures: PositiveInt = 200
    """Maximum number of candidates on the page; the CSV has them all. A picture of 96 pixels takes about
    18 kB."""


class CrossValidated(NamedTuple):
    """The predictions of the models of all folds for images that they were not trained on."""

    ids: list[str]
    folds: NDArray[np.int64]
    """int64[N], the fold in whose test split an image is."""
    labels: NDArray[np.int64]
    """int64[N], the given labels in 0..C − 1."""
    probabilities: NDArray[np.float64]
    """float64[N, C], each row a distribution."""


def parent_names(num_folds: int) -> list[tuple[str, str]]:
    """Return the names of the parents: ingest and evaluate of each fold."""
    return [(f"ingest_{fold}", f"evaluate_{fold}") for fold in range(num_folds)]


def run(parents: Parents, config: LabelErrorsConfig, draft: Draft) -> Manifest:
    """Find the candidates, and write them. Raises DataError where the folds do not belong together."""
    names = parent_names(len(parents.manifests) // 2)
    ingests = [parents[ingest] for ingest, _ in names]
    facts = IngestFacts.of(ingests[0])
    classes = facts.classes
    images = _gather(parents, names)
    candidates = find(images, config.rank_by)
    shown = candidates[: config.num_pictures]
    findings = read_findings(parents.store, ingests[0])
    conflicts = [finding for finding in findings if finding.kind == "conflicting-label"]
    inputs = PageInputs(
        source=facts.source,
        classes=classes,
        num_images=len(images.ids),
        num_folds=len(names),
        rank_by=config.rank_by,
        candidates=candidates,
        pictures=_pictures(parents, ingests, shown, draft),
        conflicts=conflicts,
    )
    draft.put(CSV_NAME, write_candidates(candidates, classes))
    draft.put(PAGE_NAME, render(inputs))
    return LabelErrorsFacts(
        classes=classes,
        num_folds=len(names),
        num_images=len(images.ids),
        num_candidates=len(candidates),
        conflicts=[finding.items for finding in conflicts],
    ).commit(draft)


def find(images: CrossValidated, rank_by: RankBy) -> list[Candidate]:
    """Return the candidates, the most likely error first; those of equal scores by their ids."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    # In one process: cleanlab would fork others, which TensorFlow does not survive.
    suspected = find_label_issues(images.labels, images.probabilities, min_examples_per_class=0, n_jobs=1)
    scores = get_label_quality_scores(images.labels, images.probabilities, method=rank_by)
    found = [
        Candidate(
            id=images.ids[place],
            fold=int(images.folds[place]),
            given=int(images.labels[place]),
            suggested=int(images.probabilities[place].argmax()),
            score=float(scores[place]),
            probabilities=images.probabilities[place].tolist(),
        )
        for place in np.flatnonzero(suspected)
    ]
    return sorted(found, key=lambda candidate: (candidate.score, candidate.id))


def write_candidates(candidates: Sequence[Candidate], classes: Sequence[str]) -> bytes:
    """Return candidates as CSV, with the names of the classes."""
    header = ["rank", "id", "given", "suggested", "score", "fold", *(f"prob_{name}" for name in classes)]
    rows = (
        [
            rank,
            candidate.id,
            classes[candidate.given],
            classes[candidate.suggested],
            f"{candidate.score:.6f}",
            candidate.fold,
            *(f"{probability:.6f}" for probability in candidate.probabilities),
        ]
        for rank, candidate in enumerate(candidates, start=1)
    )
    return write_table([header, *rows])


def read_candidates(data: bytes) -> list[CandidateRow]:
    """Return the rows of label-errors.csv."""
    header, *table = read_table(data)
    rows = [dict(zip(header, row, strict=True)) for row in table]
    return [
        CandidateRow(
            rank=int(row["rank"]),
            id=row["id"],
            given=row["given"],
            suggested=row["suggested"],
            score=float(row["score"]),
            fold=int(row["fold"]),
            probabilities={
                name.removeprefix("prob_"): float(value)
                for name, value in row.items()
                if name.startswith("prob_")
            },
        )
        for row in rows
    ]


def _gather(parents: Parents, names: Sequence[tuple[str, str]]) -> CrossValidated:
    """Return the predictions of all folds, in the order of the ids. Raises DataError."""
    first = parents[names[0][0]]
    facts = IngestFacts.of(first)
    classes, num_images = facts.classes, sum(facts.num_examples.values())
    rows: list[tuple[str, int, int, NDArray[np.float64]]] = []
    for fold, (ingest, evaluate) in enumerate(names):
        if IngestFacts.of(parents[ingest]).classes != classes:
            raise _other_images(parents[ingest])
        data = parents[evaluate].read(parents.store, "predictions-test.csv")
        predicted = read_predictions(data, len(classes), tta=True)
        # float32 rows sum to 1 except for rounding; cleanlab accepts no probability above 1.
        probabilities = predicted.probabilities / predicted.probabilities.sum(1, keepdims=True)
        rows += zip(
            predicted.ids, [fold] * len(predicted.ids), predicted.labels.tolist(), probabilities, strict=True
        )
    if len(rows) != num_images or len({row[0] for row in rows}) != num_images:
        raise _other_images(first)
    rows.sort(key=lambda row: row[0])
    return CrossValidated(
        ids=[row[0] for row in rows],
        folds=np.array([row[1] for row in rows], np.int64),
        labels=np.array([row[2] for row in rows], np.int64),
        probabilities=np.array([row[3] for row in rows]),
    )


def _other_images(ingest: Manifest) -> DataError:
    return DataError(
        "The folds do not belong together: an image is in several of them, or in none.",
        expected="every image in the test split of one fold",
        where=IngestFacts.of(ingest).source,
        remedy="The source changed while the folds were trained: run the same command again.",
    )


def _pictures(
    parents: Parents, ingests: Sequence[Manifest], candidates: Sequence[Candidate], draft: Draft
) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures of candidates by their ids, uint8[H, W, 3]; reads only their records."""
    found: dict[str, NDArray[np.uint8]] = {}
    for fold, ingest in enumerate(ingests):
        wanted = {candidate.id for candidate in candidates if candidate.fold == fold}
        if not wanted:
            continue
        index = Index.of(parents.store, ingest)
        places = (
            place for stored in ingest.matching("test-") for place in record_places(parents.path(stored))
        )
        for row, place in zip(index.places("test").tolist(), places, strict=True):
            image_id = index.ids[row]
            if image_id in wanted:
                found[image_id] = parse(place.read(), IngestFacts.of(ingest).image_size_pixels).image
                draft.progress(len(found), len(candidates), "pictures of candidates")
    return found
