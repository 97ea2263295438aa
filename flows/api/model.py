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
        >>> import hemaflow, numpy as np
        >>> model = hemaflow.open_run().model
        >>> white = np.full((96, 96, 3), 255, np.uint8)
        >>> model.predict(white)[0] in model.classes
        True
    """

    def __init__(self, trained: TrainedModel) -> None:
        self._trained = trained
        self._classifier: ImageClassifier | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in label order.

        Example:
            >>> import hemaflow
            >>> hemaflow.open_run().model.classes[0]
            'basophil'
        """
        return self._trained.classes

    @property
    def path(self) -> Path:
        """The local, read-only file model.keras.

        Example:
            >>> import hemaflow
            >>> hemaflow.open_run().model.path.name
            'model.keras'
        """
        return self._trained.path

    def probabilities(self, images: Images) -> NDArray[np.float32]:
        """Return the probability of each class, float32[N, C] in 0..1, averaged over the run's views.

        Args:
            images: uint8 or float [N, H, W, 3] in 0..255, one image [H, W, 3], or paths of image files.
                Images of another size are prepared as ingest prepared the training images.

        Raises:
            DataError: A file cannot be read as an image, or the array has another shape.

        Example:
            >>> import hemaflow, numpy as np
            >>> white = np.full((2, 96, 96, 3), 255, np.uint8)
            >>> hemaflow.open_run().model.probabilities(white).shape
            (2, 8)
        """
        from hemaflow.tasks.inference.predict import ImageClassifier

        if self._classifier is None:
            trained = self._trained
            self._classifier = ImageClassifier(
                trained.path, trained.image_size_pixels, trained.views, trained.fit_method
            )
        return self._classifier.probabilities(images)

    def predict(self, images: Images) -> list[str]:
        """Return the name of the most probable class of each image; see `probabilities`.

        Example:
            >>> import hemaflow, numpy as np
            >>> len(hemaflow.open_run().model.predict(np.full((2, 96, 96, 3), 255, np.uint8)))
            2
        """
        return [self.classes[label] for label in self.probabilities(images).argmax(1)]
