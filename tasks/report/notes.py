"""Sentences that the report, the console and the Prefect pages share."""

from __future__ import annotations

from collections.abc import Mapping


def note(counts: Mapping[str, int | None], split: str) -> str:
    """Return what a reader must know about the figures of a split; "" if no model was trained on its images.

    Args:
        counts: Split → images that the models this one builds on were trained on; None where unknown.
        split: The split.
    """
    count = counts.get(split, 0)
    if count is None:
        return (
            f"The models that this one builds on may have been trained on images of {split}: "
            "their data is no longer in the store, or has another image size."
        )
    if not count:
        return ""
    return (
        f"The models that this one builds on were trained on {count} of the images of {split}: "
        "its figures are too good."
    )
