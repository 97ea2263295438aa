"""The heavy mix: one to three random operations on each image, as in the competition's hidden test.

The operations of that test were not published. Its entrants report rotations, changed and swapped colours,
noise, holes and blur, strong enough that a model with 0.97 on clean images scored 0.68. The mix imitates that
with geometry, colour, noise, holes, and the corruptions of MedMNIST-C (`tasks/predict/medmnist_c.py`).
We chose the strengths by eye so that a person still names most cells.

It shares no code with the augmentation layers of training (keras-cv, Keras), so a model trained with those
has not been trained on this test.

Guarantees: a spoiled image depends only on (seed, its id). Every operation maps uint8[H, W, 3] in 0..255 to
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemaflow.tasks.predict.medmnist_c import MEDMNIST_C, NUM_SEVERITIES, Image, Images, generator, luma

MARGIN = 0.25
"""Padding around an image before it is moved, as a share of its side: more than any move uncovers."""
MOST_OPERATIONS = 3
"""An image goes through one, two or three operations, equally often, each of another family."""

Operation = Callable[[Image, np.random.Generator], Image]


def spoil(images: Images, ids: Sequence[str], seed: int) -> Images:
    """Return images under the heavy mix.

    Args:
        images: uint8[B, H, W, 3].
        ids: The id of each image.
        seed: Random seed of the mix.
    """
    spoiled = np.empty_like(images)
    for index, image_id in enumerate(ids):
        drawn = generator(
            seed, image_id, "heavy"
        )  # this name is part of the seed: another changes every image
        image = images[index]
        for _, operation in chain(drawn):
            image = operation(image, drawn)
        spoiled[index] = image
    return spoiled


def chain(drawn: np.random.Generator) -> list[tuple[str, Operation]]:
    """Draw the operations of an image, with their names, in the order of the families."""
    families = drawn.permutation(len(FAMILIES))[: drawn.integers(1, MOST_OPERATIONS + 1)]
    chosen = []
    for family in sorted(families):
        operations = list(FAMILIES[list(FAMILIES)[family]].items())
        chosen.append(operations[drawn.integers(len(operations))])
    return chosen


def rotate(image: Image, drawn: np.random.Generator) -> Image:
    """Turn by any angle."""
    angle = drawn.uniform(0, 2 * np.pi)
    return _transform(image, [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], (0, 0), drawn)


def shift(image: Image, drawn: np.random.Generator) -> Image:
    """Move by up to a fifth of the side each way."""
    return _transform(image, np.eye(2), drawn.uniform(-0.2, 0.2, 2), drawn)


def zoom(image: Image, drawn: np.random.Generator) -> Image:
    """Show at 0.7 to 1.4 times the size."""
    return _transform(image, np.eye(2) / np.exp(drawn.uniform(np.log(0.7), np.log(1.4))), (0, 0), drawn)


def shear(image: Image, drawn: np.random.Generator) -> Image:
    """Slant along either axis, by up to 0.4 of a pixel a pixel."""
    along, across = drawn.uniform(-0.4, 0.4), drawn.integers(2)
    matrix = np.eye(2)
    matrix[across, 1 - across] = along
    return _transform(image, matrix, (0, 0), drawn)


def flip(image: Image, drawn: np.random.Generator) -> Image:
    """Mirror along one of the axes, or both."""
    which = drawn.integers(1, 4)
    return image[:: -1 if which & 1 else 1, :: -1 if which & 2 else 1]


def hue(image: Image, drawn: np.random.Generator) -> Image:
    """Turn the colours around the axis of greys by any angle."""
    angle = drawn.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    third = (1 - cosine) / 3  # Rodrigues' rotation about (1, 1, 1)
    turn = np.full((3, 3), third) + cosine * np.eye(3)
    turn += sine * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    rows = turn.astype(np.float32)
    return _rounded(np.stack([row[0] * red + row[1] * green + row[2] * blue for row in rows], axis=-1))


def saturation(image: Image, drawn: np.random.Generator) -> Image:
    """Move the colours away from grey, up to fourfold, or most of the way to it."""
    factor = drawn.uniform(1.5, 4) if drawn.random() < 0.5 else drawn.uniform(0.1, 0.6)
    grey = luma(image)[..., None].astype(np.float32)
    return _rounded(grey + np.float32(factor) * (image - grey))


def brightness(image: Image, drawn: np.random.Generator) -> Image:
    """Add up to 90, or take as much."""
    more = drawn.uniform(30, 90) * drawn.choice((-1, 1))
    return _table(np.arange(256) + more)[image]


def contrast(image: Image, drawn: np.random.Generator) -> Image:
    """Move the values to the middle, or away from it up to twice as far."""
    factor = drawn.uniform(1.3, 2) if drawn.random() < 0.5 else drawn.uniform(0.3, 0.7)
    return _table(128 + factor * (np.arange(256) - 128))[image]


def channel_shuffle(image: Image, drawn: np.random.Generator) -> Image:
    """Exchange the colour channels; never back to the order they had."""
    orders = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return image[..., orders[drawn.integers(len(orders))]]


def channel_drop(image: Image, drawn: np.random.Generator) -> Image:
    """Set one colour channel to 0."""
    kept = np.ones(3, np.uint8)
    kept[drawn.integers(3)] = 0
    return image * kept


def greyscale(image: Image, _: np.random.Generator) -> Image:
    """Leave the luma alone."""
    return np.repeat(luma(image)[..., None], 3, axis=2)


def solarize(image: Image, drawn: np.random.Generator) -> Image:
    """Turn values above a threshold into their negative."""
    threshold = drawn.integers(96, 224)
    values = np.arange(256)
    return _table(np.where(values < threshold, values, 255 - values))[image]


def posterize(image: Image, drawn: np.random.Generator) -> Image:
    """Keep the two or three highest bits of each value."""
    return image & np.uint8(256 - (1 << int(drawn.integers(5, 7))))


def tint(image: Image, drawn: np.random.Generator) -> Image:
    """Multiply each channel by 0.5 to 1.5: another stain, another lamp."""
    factors = drawn.uniform(0.5, 1.5, 3).astype(np.float32)
    return _rounded(image.astype(np.float32) * factors)


def gaussian_noise(image: Image, drawn: np.random.Generator) -> Image:
    """Add noise of a standard deviation of 10 to 45."""
    noise = drawn.standard_normal(image.shape, np.float32)
    return _rounded(image + np.float32(drawn.uniform(10, 45)) * noise)


def shot_noise(image: Image, drawn: np.random.Generator) -> Image:
    """Count light in quanta: full light is 12 to 60 of them on the mean.

    The deviation is that of the Poisson distribution, its form Gaussian, which above a few quanta is all one.
    """
    noise = drawn.standard_normal(image.shape, np.float32)
    quantum = np.float32(255 / drawn.uniform(12, 60))
    return _rounded(image + np.sqrt(image * quantum) * noise)


def salt_and_pepper(image: Image, drawn: np.random.Generator) -> Image:
    """Turn 2 to 15 % of the pixels black or white."""
    share = drawn.uniform(0.02, 0.15)
    lot = drawn.random(image.shape[:2], np.float32)[..., None]
    return np.where(lot < share / 2, np.uint8(0), np.where(lot > 1 - share / 2, np.uint8(255), image))


def cutout(image: Image, drawn: np.random.Generator) -> Image:
    """Cover one to three rectangles of a tenth to a third of the side, with one grey (arXiv:1708.04552)."""
    holed = image.copy()
    height, width = image.shape[:2]
    grey = drawn.integers(256)
    for _ in range(drawn.integers(1, 4)):
        tall, wide = np.maximum(1, np.round(drawn.uniform(0.1, 0.35, 2) * (height, width)).astype(int))
        top, left = drawn.integers(height - tall + 1), drawn.integers(width - wide + 1)
        holed[top : top + tall, left : left + wide] = grey
    return holed


def grid_mask(image: Image, drawn: np.random.Generator) -> Image:
    """Cover the squares of a grid with black: 30 to 50 % of each cell's sides (arXiv:2001.04086)."""
    height, width = image.shape[:2]
    pitch = max(2, round(drawn.uniform(0.12, 0.3) * height))
    covered = max(1, round(drawn.uniform(0.3, 0.5) * pitch))
    down, right = drawn.integers(pitch, size=2)
    rows, columns = (np.arange(height) + down) % pitch < covered, (np.arange(width) + right) % pitch < covered
    seen: NDArray[np.bool_] = ~(rows[:, None] & columns)[..., None]
    return np.where(seen, image, np.uint8(0))


def medmnist_c(name: str) -> Operation:
    """Return an operation that applies a corruption of MedMNIST-C at a random severity."""
    corruption = MEDMNIST_C[name]

    def operation(image: Image, drawn: np.random.Generator) -> Image:
        return corruption.severities[int(drawn.integers(NUM_SEVERITIES))](image, drawn)

    return operation


FAMILIES: dict[str, dict[str, Operation]] = {
    "geometry": {"rotate": rotate, "shift": shift, "zoom": zoom, "shear": shear, "flip": flip},
    "colour": {
        "hue": hue,
        "saturation": saturation,
        "brightness": brightness,
        "contrast": contrast,
        "channel_shuffle": channel_shuffle,
        "channel_drop": channel_drop,
        "greyscale": greyscale,
        "solarize": solarize,
        "posterize": posterize,
        "tint": tint,
    },
    "noise": {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "salt_and_pepper": salt_and_pepper,
    },
    "holes": {"cutout": cutout, "grid_mask": grid_mask},
    "medmnist_c": {name: medmnist_c(name) for name in MEDMNIST_C},
}
"""Family → name → operation. Families are drawn equally often, and so are the operations of a family."""


def _transform(
    image: Image,
    matrix: ArrayLike,
    moved: Sequence[float] | NDArray[np.float64],
    drawn: np.random.Generator,
) -> Image:
    """Return the image under an affine map about its middle; the outside is mirrored or black.

    Args:
        image: uint8[H, W, 3].
        matrix: float[2, 2], from the offset (x, y) of a pixel of the result to that of its origin.
        moved: How far (x, y) the image is moved, in sides.
        drawn: Draws whether the outside is mirrored.
    """
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    margin = int(np.ceil(MARGIN * max(height, width)))
    mode: Literal["reflect", "constant"] = "reflect" if drawn.random() < 0.5 else "constant"
    around = Pillow.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode=mode))
    (a, b), (c, d) = np.asarray(matrix, np.float64).tolist()
    x, y = width * (0.5 + float(moved[0])), height * (0.5 + float(moved[1]))
    origin_x, origin_y = margin + width / 2 - a * x - b * y, margin + height / 2 - c * x - d * y
    return np.asarray(
        around.transform(
            (width, height),
            Pillow.Transform.AFFINE,
            (a, b, origin_x, c, d, origin_y),
            Pillow.Resampling.BILINEAR,
        )
    )


def _rounded(values: NDArray[np.float32]) -> Image:
    whole: Image = np.clip(values + np.float32(0.5), 0, 255).astype(np.uint8)
    return whole


def _table(values: ArrayLike) -> NDArray[np.uint8]:
    """Return uint8[256] of what each value becomes."""
    return np.clip(np.round(np.asarray(values, np.float64)), 0, 255).astype(np.uint8)
