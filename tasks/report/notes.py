"""Sentences that the report, the console and the Prefect pages share."""

from __future__ import annotations

from collections.abc import Mapping


def note(counts: Mapping[str, int | None], split: str) -> str:
    """Return what a reader must know of the figures of a split; "" where none of its images was learnt from.

    Args:
        counts: What `already_learnt` gave.
        split: The split.
    """
    count = counts.get(split, 0)
    if count is None:
        return (
            f"Whether the models that this one began from, or is made of, learnt from images of {split} "
            "cannot be told: their data is gone from the store, or of another image size."
        )
    if not count:
        return ""
    return (
        f"The models that this one began from, or is made of, learnt from {count} of the images of {split}: "
        "it looks better here than it is."
    )
