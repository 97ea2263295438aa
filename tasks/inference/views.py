"""Test-time augmentation: the views of an image that a prediction is averaged over.

Needs only Keras and numpy, and nothing of this project: a submission carries this text. A view maps
float32[B, H, W, 3] in 0..255 to the same; the probabilities of the views are averaged. A new kind of view is
one function here, registered by `_kind`, and its name in a preset.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

View = Callable[["keras.KerasTensor", str], "keras.KerasTensor"]
"""Called with images and the amount that the name of a view ends in (`+3` in `shift-x+3`, or "")."""
_KINDS: dict[str, View] = {}
"""Kind of view → what makes it."""


def _kind(name: str) -> Callable[[View], View]:
    """Register the decorated function for views called `name` or `name-AMOUNT`."""

    def add(function: View) -> View:
        if _KINDS.setdefault(name, function) is not function:
            raise ValueError(f"There are two kinds of view called {name!r}.")
        return function

    return add


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
    # What a search may choose from: every orientation of a cell, and small errors of cropping it.
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
        others: Other words that are allowed there; the error lists them, too.

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


def view(images: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Return one view of float32[B, H, W, 3] in 0..255. Raises ValueError if there is no such view."""
    kind, _, amount = (name, "", "") if name in _KINDS else name.partition("-")
    if kind not in _KINDS:
        raise ValueError(f"There is no view {name!r}.")
    return _KINDS[kind](images, amount)


@_kind("identity")
def _identity(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    return images


@_kind("flip")
def _flip(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    from keras import ops

    return ops.flip(images, axis={"horizontal": 2, "vertical": 1}[amount])


@_kind("rotate")
def _rotate(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    from keras import ops

    return ops.rot90(images, k=int(amount) // 90, axes=(1, 2))


@_kind("transpose")
def _transpose(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    from keras import ops

    return ops.transpose(images, (0, 2, 1, 3))


@_kind("anti-transpose")
def _anti_transpose(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    from keras import ops

    return ops.flip(ops.transpose(images, (0, 2, 1, 3)), axis=(1, 2))


@_kind("saturation")
def _saturation(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    """Move colours away from the grey of the same luma (ITU-R BT.601), as Pillow's ImageEnhance.Color."""
    from keras import ops

    luma = ops.sum(images * np.array([0.299, 0.587, 0.114], "float32"), axis=-1, keepdims=True)
    return ops.clip(luma + float(amount) * (images - luma), 0.0, 255.0)


@_kind("crop")
def _crop(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    """Cut out the middle, `amount` of each side, and enlarge it."""
    from keras import ops

    height, width = images.shape[1], images.shape[2]
    share = float(amount)
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    middle = images[:, top : height - top, left : width - left, :]
    return ops.image.resize(middle, (height, width), interpolation="bilinear")


@_kind("shrink")
def _shrink(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    """Repeat the edge around the image and reduce it, so that the image fills `amount` of each side."""
    from keras import ops

    height, width = images.shape[1], images.shape[2]
    for axis, size in ((1, height), (2, width)):
        margin = round(size * (1 / float(amount) - 1) / 2)
        around = np.clip(np.arange(-margin, size + margin), 0, size - 1)
        images = ops.take(images, around, axis=axis)
    return ops.image.resize(images, (height, width), interpolation="bilinear", antialias=True)


@_kind("shift")
def _shift(images: keras.KerasTensor, amount: str) -> keras.KerasTensor:
    """Move the image by some pixels (`x+3`: to the right) and repeat the edge behind it."""
    from keras import ops

    axis, pixels = (2 if amount[0] == "x" else 1), int(amount[1:])
    size = images.shape[axis]
    return ops.take(images, np.clip(np.arange(size) - pixels, 0, size - 1), axis=axis)


def predict_each(
    model: keras.Model, images: NDArray[np.uint8], views: Sequence[str], batch_size: int
) -> NDArray[np.float32]:
    """Return the model's probabilities for each view.

    Every batch is padded to `batch_size`, so that the probabilities of an image do not depend on how many
    images there are.

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


def average(given: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of several views' probabilities, each float32[N, C], as float32[N, C]."""
    total = np.zeros(given[0].shape, np.float64)
    for probabilities in given:
        total += probabilities
    mean: NDArray[np.float32] = (total / len(given)).astype(np.float32)
    return mean


def predict(
    model: keras.Model, images: NDArray[np.uint8], views: Sequence[str], batch_size: int
) -> NDArray[np.float32]:
    """Return the mean over the views of the model's probabilities, float32[N, C]; see `predict_each`."""
    return average(predict_each(model, images, views, batch_size))
