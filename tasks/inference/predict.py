"""Classifies image files with a trained model, for `hemaflow predict`.

Reads image files and a model; writes nothing. Resizes pictures to the model's size as ingest does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemaflow.infra.errors import DataError
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.inference.views import predict
from hemaflow.tasks.sources.images import Fit, Unreadable, decode_image, fit


class ClassProbability(TypedDict("ClassProbability", {"class": str})):
    """A class, in `class`, and its probability."""

    probability: float
    """In 0..1."""


class NamedImage(TypedDict):
    """An image file and its most probable classes."""

    image: str
    """Path of the file."""
    top: list[ClassProbability]
    """The classes, the most probable first."""


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
) -> list[NamedImage]:
    """Return, for each file in order, its most probable classes.

    Args:
        model_path: A `model.keras`; loaded in safe mode, no code in it is run.
        paths: JPEG or PNG files.
        image_size_pixels: Height and width that the model takes.
        classes: Names of the labels 0, 1, …
        views: The views whose probabilities are averaged.
        fit_method: How a picture that is not square is made square; see `hemaflow.tasks.sources.images.fit`.
        num_top: Number of classes to name for each image.
        batch_size: Number of images at once on the device and in memory.

    Raises:
        DataError: A file cannot be read as an image, or is too large.
    """
    classifier = ImageClassifier(model_path, image_size_pixels, views, fit_method, batch_size)
    results: list[NamedImage] = []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        for path, probabilities in zip(batch, classifier.probabilities(batch), strict=True):
            top = np.argsort(-probabilities, kind="stable")[:num_top]
            named: list[ClassProbability] = [
                {"class": classes[label], "probability": float(probabilities[label])} for label in top
            ]
            results.append({"image": str(path), "top": named})
    return results


class ImageClassifier:
    """A loaded model that classifies pictures of any size, as arrays or files.

    Args:
        model_path: A `model.keras`; loaded in safe mode, no code in it is run.
        image_size_pixels: Height and width that the model takes.
        views: The views whose probabilities are averaged.
        fit_method: How pictures are resized to that size; see `hemaflow.tasks.sources.images.fit`.
        batch_size: Images at once on the device.
    """

    def __init__(
        self,
        model_path: Path,
        image_size_pixels: int,
        views: Sequence[str] = ("identity",),
        fit_method: Fit = "crop",
        batch_size: int = 64,
    ) -> None:
        self._model = load_keras().models.load_model(model_path, compile=False, safe_mode=True)
        self._size_pixels, self._fit_method = image_size_pixels, fit_method
        self._views, self._batch_size = views, batch_size

    def probabilities(self, images: ArrayLike | Sequence[str | Path]) -> NDArray[np.float32]:
        """Return the probability of each class, float32[N, C] in 0..1, averaged over the views.

        Args:
            images: Numbers [N, H, W, 3] in 0..255, one image [H, W, 3], or paths of JPEG or PNG files.

        Raises:
            DataError: A file cannot be read as an image, or the array has another shape.
        """
        fitted = [fit(picture, self._size_pixels, self._fit_method) for picture in _pictures(images)]
        size = self._size_pixels
        stacked = np.stack(fitted) if fitted else np.zeros((0, size, size, 3), np.uint8)
        return predict(self._model, stacked, self._views, self._batch_size)


def _pictures(images: ArrayLike | Sequence[str | Path]) -> list[NDArray[np.uint8]]:
    """Return pictures uint8[h, w, 3] from what a caller gave. Raises DataError."""
    if isinstance(images, str | Path):
        images = [images]
    if isinstance(images, Sequence) and images and all(isinstance(image, str | Path) for image in images):
        return [read_image(Path(str(path))) for path in images]
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[None]
    if array.shape != (0,) and (array.ndim != 4 or array.shape[3] != 3):
        raise DataError(
            "These are not images.",
            expected="numbers of shape (N, H, W, 3) or (H, W, 3) in 0..255, or paths of files",
            received=f"an array of shape {array.shape}",
            remedy="Give colour images; repeat a grey image three times along the last axis.",
        )
    return list(np.clip(np.rint(array), 0, 255).astype(np.uint8))


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
