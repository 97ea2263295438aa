"""The page of label errors: every candidate with its picture, for a person to decide on.

`render` takes what `tasks/review/label_errors.py` found and gives one HTML page, with the guarantees and in
the style of the report. The page's form is in `label_errors.html.j2`, the words are here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.tasks.report.html import environment, picture_uri

CODE_FILES = ("label_errors.html.j2", "../report/report.html.j2")
RANKS = {
    "self_confidence": "the probability that the model gives the label it has",
    "normalized_margin": "by how much the probability of its label is above that of the likeliest other one",
}
"""What candidates are ranked by → what that is."""
PAIRS_SHOWN = 12
"""Pairs of given and suggested label that are counted on the page."""


class Candidate(NamedTuple):
    """An image whose label may be wrong."""

    id: str
    fold: int
    given: int
    suggested: int
    """The class that the model holds likeliest."""
    score: float
    """In 0..1; the lower, the likelier an error."""
    probabilities: list[float]
    """C of them, of the model that did not learn from this image."""


@dataclass(frozen=True)
class PageInputs:
    """All that the page tells."""

    source: str
    classes: Sequence[str]
    num_images: int
    num_folds: int
    rank_by: str
    candidates: Sequence[Candidate]
    pictures: Mapping[str, NDArray[np.uint8]]
    """Id → uint8[H, W, 3], of the candidates that are shown."""
    conflicts: Sequence[Mapping[str, Any]]
    """The findings of ingest of one picture under several labels."""


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
        return "No label is contradicted by a model that did not learn from the image."
    return (
        f"Of {inputs.num_images} images, {len(inputs.candidates)} may have a wrong label. Each was judged by "
        f"the one of {inputs.num_folds} models that did not learn from it. They are candidates, no errors "
        "yet: hard cells are among them, and a model that is often wrong suspects many labels that are right."
    )


def _pairs(inputs: PageInputs) -> list[dict[str, Any]]:
    """Return the most frequent pairs of given and suggested label."""
    counts = Counter((candidate.given, candidate.suggested) for candidate in inputs.candidates)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"given": inputs.classes[given], "suggested": inputs.classes[suggested], "count": count}
        for (given, suggested), count in ordered[:PAIRS_SHOWN]
    ]
