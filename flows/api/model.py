"""The trained model of a run, loaded when it is first asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hemaflow.flows.runs.find import TrainedModel

if TYPE_CHECKING:
    from hemaflow.tasks.inference.predict import ImageClassifier

Images = ArrayLike | Sequence[str | Path]
"""uint8 or float [N, H, W, 3] in 0..255, one image [H, W, 3], or paths of image files."""


class Model:
    """A trained classifier.

    Args:
        trained: Where the model is, and how its images are prepared.

    Example:
        >>> import hemaflow
        >>> model = hemaflow.open_run().model  # doctest: +SKIP
        >>> model.predict(["cell.png"])  # doctest: +SKIP
        ['neutrophil']
    """

    def __init__(self, trained: TrainedModel) -> None:
        self._trained = trained
        self._classifier: ImageClassifier | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in label order."""
        return self._trained.classes

    @property
    def path(self) -> Path:
        """The local, read-only file model.keras."""
        return self._trained.path

    def probabilities(self, images: Images) -> NDArray[np.float32]:
        """Return the probability of each class, float32[N, C] in 0..1, averaged over the run's views.

        Args:
            images: uint8 or float [N, H, W, 3] in 0..255, one image [H, W, 3], or paths of image files.
                Images of another size are prepared as ingest prepared the training images.

        Raises:
            DataError: A file cannot be read as an image, or the array has another shape.
        """
        from hemaflow.tasks.inference.predict import ImageClassifier

        if self._classifier is None:
            trained = self._trained
            self._classifier = ImageClassifier(
                trained.path, trained.image_size_pixels, trained.views, trained.fit_method
            )
        return self._classifier.probabilities(images)

    def predict(self, images: Images) -> list[str]:
        """Return the name of the most probable class of each image; see `probabilities`."""
        return [self.classes[label] for label in self.probabilities(images).argmax(1)]
