"""Test-time augmentation: the views of an image that a prediction is averaged over.

Needs Keras and numpy alone, and nothing of this project: a submission carries this text. A view maps
float32[B, H, W, 3] in 0..255 to the same; the probabilities of the views are averaged.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

_DIHEDRAL = (
    "identity",
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip-horizontal",
    "flip-vertical",
    "transpose",
    "anti-transpose",
)
PRESETS: dict[str, tuple[str, ...]] = {
    "none": ("identity",),
    "flips": ("identity", "flip-horizontal", "flip-vertical", "rotate-180"),
    "dihedral": _DIHEDRAL,
    # The nine views of the competition entry that this project began as, from its published report.
    "seed": (
        "identity",
        "flip-horizontal",
        "flip-vertical",
        "saturation-4",
        "crop-0.8",
        "shift-x+3",
        "shift-x-3",
        "shift-y+3",
        "shift-y-3",
    ),
    # What a search may choose from: every way to lay a cell, and small errors of cutting it out.
    "wide": (
        *_DIHEDRAL,
        "crop-0.9",
        "shrink-0.9",
        "shift-x+3",
        "shift-x-3",
        "shift-y+3",
        "shift-y-3",
    ),
}
"""Named lists of views."""


def parse_views(text: str, others: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the views of a preset, or of a list like `identity,rotate-90`.

    Args:
        text: The preset or list.
        others: What else could have been meant; named in the error.

    Raises:
        ValueError: It is neither.
    """
    if text in PRESETS:
        return PRESETS[text]
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = sorted({view for views in PRESETS.values() for view in views})
    for name in names:
        if name not in known:
            candidates = [*others, *PRESETS, *known]
            close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
            guess = f"Did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"There is no view {name!r}. {guess}One of: {', '.join(candidates)}.")
    if not names:
        raise ValueError("Expected a preset or a list of views. Received: nothing.")
    return names


def view(images: Any, name: str) -> Any:
    """Return one view of float32[B, H, W, 3] in 0..255."""
    from keras import ops

    height, width = images.shape[1], images.shape[2]
    if name == "identity":
        return images
    if name == "flip-horizontal":
        return ops.flip(images, axis=2)
    if name == "flip-vertical":
        return ops.flip(images, axis=1)
    if name == "transpose":
        return ops.transpose(images, (0, 2, 1, 3))
    if name == "anti-transpose":
        return ops.flip(ops.transpose(images, (0, 2, 1, 3)), axis=(1, 2))
    kind, _, amount = name.partition("-")
    if kind == "rotate":
        return ops.rot90(images, k=int(amount) // 90, axes=(1, 2))
    if kind == "saturation":
        # Away from the grey of the same luma (ITU-R BT.601), as Pillow's ImageEnhance.Color does.
        luma = ops.sum(images * np.array([0.299, 0.587, 0.114], "float32"), axis=-1, keepdims=True)
        return ops.clip(luma + float(amount) * (images - luma), 0.0, 255.0)
    if kind == "crop":
        share = float(amount)
        top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
        middle = images[:, top : height - top, left : width - left, :]
        return ops.image.resize(middle, (height, width), interpolation="bilinear")
    if kind == "shrink":
        for axis, size in ((1, height), (2, width)):
            margin = round(size * (1 / float(amount) - 1) / 2)
            around = np.clip(np.arange(-margin, size + margin), 0, size - 1)  # the edge repeated
            images = ops.take(images, around, axis=axis)
        return ops.image.resize(images, (height, width), interpolation="bilinear", antialias=True)
    if kind == "shift":
        axis, pixels = (2 if amount[0] == "x" else 1), int(amount[1:])
        size = images.shape[axis]
        # What comes in at the edge is the edge repeated.
        return ops.take(images, np.clip(np.arange(size) - pixels, 0, size - 1), axis=axis)
    raise ValueError(f"There is no view {name!r}.")


def predict_each(model: Any, images: Any, views: Sequence[str], batch_size: int) -> Any:
    """Return the model's probabilities of each view.

    Every batch is filled up to `batch_size`, so that an image's probabilities do not depend on how many
    others come with it.

    Args:
        model: A Keras model, float32[B, H, W, 3] in 0..255 → float32[B, C].
        images: uint8[N, H, W, 3].
        views: Names of views.
        batch_size: Images at once on the device.

    Returns:
        float32[V, N, C].
    """
    from keras import ops

    given = np.zeros((len(views), len(images), model.output_shape[-1]), np.float32)
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size], np.float32)
        count = len(batch)
        if count < batch_size:
            batch = np.concatenate([batch, np.zeros((batch_size - count, *batch.shape[1:]), np.float32)])
        pixels = ops.convert_to_tensor(batch)
        for number, name in enumerate(views):
            shown = view(pixels, name)
            given[number, start : start + count] = np.asarray(model.predict_on_batch(shown))[:count]
    return given


def average(given: Sequence[Any]) -> Any:
    """Return the mean of several views' probabilities, each float32[N, C], as float32[N, C]."""
    total = np.zeros(given[0].shape, np.float64)
    for probabilities in given:
        total += probabilities
    return (total / len(given)).astype(np.float32)


def predict(model: Any, images: Any, views: Sequence[str], batch_size: int) -> Any:
    """Return the mean over the views of the model's probabilities, float32[N, C]; see `predict_each`."""
    return average(predict_each(model, images, views, batch_size))
