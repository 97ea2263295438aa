"""The page of label errors: every candidate with its picture, for a person to decide on.

`render` takes the results of `tasks/review/label_errors.py` and returns one HTML page, with the guarantees
and the style of the report. The layout is in `label_errors.html.j2`, the sentences are here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.report.html import environment, picture_uri
from hemaflow.tasks.sources.base import Finding

CODE_FILES = ("label_errors.html.j2", "../report/report.html.j2")
RANKS = {
    "self_confidence": "the probability of the given label",
    "normalized_margin": "the margin of its probability over the highest other one",
}
"""Ranking → its score in words."""
PAIRS_SHOWN = 12
"""Maximum number of pairs of given and suggested label on the page."""


class Pair(NamedTuple):
    """How many candidates have one label and are suggested another."""

    given: str
    suggested: str
    num_images: int


class Candidate(NamedTuple):
    """An image whose label may be wrong."""

    id: str
    fold: int
    given: int
    suggested: int
    """The most probable class."""
    score: float
    """In 0..1; the lower, the more likely an error."""
    probabilities: list[float]
    """C probabilities, of the model that was not trained on this image."""


@dataclass(frozen=True)
class PageInputs:
    """The content of the page."""

    source: str
    classes: Sequence[str]
    num_images: int
    num_folds: int
    rank_by: str
    candidates: Sequence[Candidate]
    pictures: Mapping[str, NDArray[np.uint8]]
    """Id → uint8[H, W, 3], of the candidates that are shown."""
    conflicts: Sequence[Finding]
    """The findings of ingest about one picture under several labels."""


def render(inputs: PageInputs) -> bytes:
    """Return the page as HTML, in UTF-8."""
    shown = [candidate for candidate in inputs.candidates if candidate.id in inputs.pictures]
    page = (
        environment(Path(__file__).parent)
        .get_template(CODE_FILES[0])
        .render(
            inputs=inputs,
            summary=_summary(inputs),
            ranked_by=RANKS[inputs.rank_by],
            pairs=_pairs(inputs),
            shown=[(candidate, picture_uri(inputs.pictures[candidate.id])) for candidate in shown],
            num_left_out=len(inputs.candidates) - len(shown),
        )
    )
    return page.encode()


def _summary(inputs: PageInputs) -> str:
    if not inputs.candidates:
        return "No label contradicts a model that was not trained on the image."
    return (
        f"Of {inputs.num_images} images, {len(inputs.candidates)} may have a wrong label. Each was judged by "
        f"the one of {inputs.num_folds} models that was not trained on it. They are candidates, not errors: "
        "they include hard cells, and a model that is often wrong suspects many labels that are right."
    )


def _pairs(inputs: PageInputs) -> list[Pair]:
    """Return the most frequent pairs of given and suggested label."""
    counts = Counter((candidate.given, candidate.suggested) for candidate in inputs.candidates)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Pair(inputs.classes[given], inputs.classes[suggested], count)
        for (given, suggested), count in ordered[:PAIRS_SHOWN]
    ]
