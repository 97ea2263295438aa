"""Name the cells in image files with a trained model: what `hemaflow predict` shows.

Reads image files and a model; writes nothing. Pictures are brought to the model's size as ingest does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.inference.views import predict
from hemaflow.tasks.sources.images import Fit, Unreadable, decode_image, fit


def predict_images(
    model_path: Path,
    paths: Sequence[Path],
    image_size_pixels: int,
    classes: Sequence[str],
    views: Sequence[str] = ("identity",),
    fit_method: Fit = "crop",
    *,
    num_top: int = 3,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Return, for each file in order, its most probable classes.

    Args:
        model_path: A `model.keras`; loaded in safe mode, nothing in it is run as code.
        paths: JPEG or PNG files.
        image_size_pixels: Height and width that the model takes.
        classes: Names of the labels 0, 1, …
        views: The views whose probabilities are averaged.
        fit_method: What is done with a picture that is not square; see `hemaflow.tasks.sources.images.fit`.
        num_top: How many classes to name of each image.
        batch_size: Images at once on the device; also how many are held in memory.

    Returns:
        For each file {"image": str, "top": [{"class": str, "probability": float in 0..1}, …]}, the likeliest
        class first.

    Raises:
        DataError: a file cannot be read as an image, or is too large.
    """
    keras = load_keras()
    model = keras.models.load_model(model_path, compile=False, safe_mode=True)
    results = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        images = np.stack([fit(read_image(path), image_size_pixels, fit_method) for path in batch])
        for path, probabilities in zip(batch, predict(model, images, views, batch_size), strict=True):
            top = np.argsort(-probabilities, kind="stable")[:num_top]
            named = [{"class": classes[label], "probability": float(probabilities[label])} for label in top]
            results.append({"image": str(path), "top": named})
    return results


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as uint8[h, w, 3]. Raises DataError."""
    try:
        with path.open("rb") as file:
            return decode_image(file)
    except (Unreadable, OSError) as error:
        raise DataError(
            "A file cannot be read as an image.",
            expected="a JPEG or PNG image",
            received=getattr(error, "strerror", None) or str(error),
            where=str(path),
            remedy="Check the path; leave the file out, or save it again as PNG.",
        ) from error
