"""Classifies images of blood cells: `Model().predict(X)`, or `Model().probabilities(X)`.

Needs keras, tensorflow and numpy, and `model.keras` in the same folder; works from any working directory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemaflow.tasks.inference.temperature import tempered
from hemaflow.tasks.inference.views import predict

SUBMITTED_CLASSES: tuple[str, ...] = ()  # the names of labels 0, 1, …
SUBMITTED_VIEWS: tuple[str, ...] = ("identity",)  # the views whose probabilities are averaged
SUBMITTED_BATCH_SIZE: int = 64  # images at once on the device
SUBMITTED_TEMPERATURE: float = 1.0  # temperature of the probabilities; 1 leaves them unchanged


class Model:
    """The trained model, ready to classify images."""

    classes = SUBMITTED_CLASSES

    def __init__(self) -> None:
        """Load the weights from the folder of this file; no code in them is run."""
        import keras

        path = Path(__file__).resolve().parent / "model.keras"
        self.model = keras.models.load_model(path, compile=False, safe_mode=True)
        self.size_pixels: tuple[int, int] = tuple(self.model.input_shape[1:3])

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of each image.

        Args:
            X: Numbers in 0..255 of shape (n, H, W, 3), as an array or nested lists; n may be 0. Images of
                another size than the model's are resized.

        Returns:
            int64[n], counting from 0.

        Raises:
            ValueError: X has another shape, or contains values that are not numbers.
        """
        # Before the temperature, which could round different probabilities to equal ones.
        labels: NDArray[np.int64] = np.argmax(self._averages(X), axis=1).astype(np.int64)
        return labels

    def probabilities(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the probability of each class, float32[n, C]; rows sum to 1. X is as for `predict`."""
        answers: NDArray[np.float32] = tempered(self._averages(X), SUBMITTED_TEMPERATURE)
        return answers

    def _averages(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the mean of the network's probabilities over the views."""
        images = np.asarray(X)
        if images.shape[:1] == (0,):
            return np.zeros((0, len(self.classes)), np.float32)
        if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape or images.dtype.kind not in "uif":
            raise ValueError(
                "Expected images as numbers of shape (n, H, W, 3). "
                f"Received: shape={images.shape}, dtype={images.dtype}"
            )
        chunk = SUBMITTED_BATCH_SIZE * max(1, 1024 // SUBMITTED_BATCH_SIZE)  # bounds the memory
        return np.concatenate(
            [self._average(images[start : start + chunk]) for start in range(0, len(images), chunk)]
        )

    def _average(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        import keras

        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise ValueError("Expected values in 0..255. Received: infinity, or what is no number")
        if images.shape[1:3] != self.size_pixels:
            pixels = keras.ops.cast(images, "float32")
            pixels = keras.ops.image.resize(
                pixels, self.size_pixels, interpolation="bilinear", antialias=True
            )
            images = keras.ops.convert_to_numpy(pixels)
        if images.dtype != np.uint8:
            images = np.clip(np.rint(images), 0, 255)
        return predict(self.model, images.astype(np.uint8), SUBMITTED_VIEWS, SUBMITTED_BATCH_SIZE)
