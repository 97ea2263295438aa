"""Name the cells in image files with a trained model: what `hemaflow predict` shows.

Reads image files and a model; writes nothing. A picture that is not square is cropped to its middle square
and then resized to the model's size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from tasks.views import predict

# The most pixels an image file may unpack to: more than a 50-megapixel photograph, less than a bomb.
MAX_PIXELS = 64 << 20


def predict_images(
    model_path: Path,
    paths: Sequence[Path],
    image_size_pixels: int,
    classes: Sequence[str],
    views: Sequence[str] = ("identity",),
    *,
    num_top: int = 3,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Return, for each file in order, its most probable classes.

    Args:
        model_path: A `model.keras`; loaded in safe mode, nothing in it is run as code.
        paths: Image files (JPEG, PNG and whatever else Pillow reads).
        image_size_pixels: Height and width that the model takes.
        classes: Names of the labels 0, 1, …
        views: The views whose probabilities are averaged.
        num_top: How many classes to name of each image.
        batch_size: Images at once on the device; also how many are held in memory.

    Returns:
        For each file {"image": str, "top": [{"class": str, "probability": float in 0..1}, …]}, the likeliest
        class first.

    Raises:
        DataError: a file cannot be read as an image, or is too large.
    """
    import keras

    model = keras.models.load_model(model_path, compile=False, safe_mode=True)
    results = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images = np.stack([read_image(path, image_size_pixels) for path in batch])
        for path, probabilities in zip(batch, predict(model, images, views, batch_size), strict=True):
            top = np.argsort(-probabilities, kind="stable")[:num_top]
            named = [{"class": classes[label], "probability": float(probabilities[label])} for label in top]
            results.append({"image": str(path), "top": named})
    return results


def read_image(path: Path, image_size_pixels: int) -> NDArray[np.uint8]:
    """Return the middle square of an image file as uint8[S, S, 3]. Raises DataError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        "An image is too large.",
                        expected=f"at most {MAX_PIXELS} pixels",
                        received=f"{image.width} × {image.height}",
                        where=str(path),
                    )
                upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(
            "A file cannot be read as an image.",
            expected="a JPEG or PNG image",
            received=str(error).replace(str(path), path.name) or type(error).__name__,
            where=str(path),
        ) from error
    side = min(upright.size)
    left, upper = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, upper, left + side, upper + side))
    return np.asarray(
        square.resize((image_size_pixels, image_size_pixels), Image.Resampling.LANCZOS), np.uint8
    )
