"""A trained model with all it takes to ask it about the pictures of another data set.

Reads `model.keras` of train and the shards of ingest, batch by batch; writes nothing. Pictures of another
size than the model's are brought to it as ingest does it. TensorFlow need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.views import predict
from hemaflow.tasks.records.schema import read_batches
from hemaflow.tasks.sources.images import fit


class Batch(NamedTuple):
    """Some pictures of a split."""

    ids: list[str]
    images: NDArray[np.uint8]
    """uint8[B, H, W, 3]."""
    labels: NDArray[np.int64]
    """int64[B], in the order of the classes of their ingest."""


def split_batches(parents: Parents, ingest: Manifest, split: str, batch_size: int) -> Iterator[Batch]:
    """Yield the pictures of a split in the order of the index, in bounded memory."""
    if not ingest.facts["num_examples"][split]:
        return
    shards = [parents.path(stored) for stored in ingest.matching(f"{split}-")]
    size = int(ingest.facts["image_size_pixels"])
    for batch in read_batches(shards, size, batch_size):
        yield Batch(batch.ids, batch.images, batch.labels.argmax(1).astype(np.int64))


def resized(images: NDArray[np.uint8], size_pixels: int) -> NDArray[np.uint8]:
    """Return square pictures uint8[B, H, H, 3] as uint8[B, S, S, 3]."""
    if images.shape[1] == size_pixels:
        return images
    return np.stack([fit(image, size_pixels, "stretch") for image in images])


@dataclass(frozen=True)
class Classifier:
    """A loaded model.

    Attributes:
        model: A Keras model, float32[B, S, S, 3] in 0..255 → float32[B, C].
        image_size_pixels: S.
        classes: Names of the labels 0, 1, …
        views: The views whose probabilities are averaged.
        batch_size: Images at once on the device.
    """

    model: Any
    image_size_pixels: int
    classes: list[str]
    views: Sequence[str]
    batch_size: int

    @classmethod
    def load(
        cls, parents: Parents, train: Manifest, ingest: Manifest, views: Sequence[str], batch_size: int
    ) -> Classifier:
        """Load the model of a result of train, in safe mode: nothing in it is run as code.

        Args:
            parents: What holds the results.
            train: The result with the model.
            ingest: The result that it was trained on.
            views: Names of views.
            batch_size: Images at once on the device.
        """
        keras = load_keras()
        path = parents.path(train.object("model.keras"))
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        size, classes = int(ingest.facts["image_size_pixels"]), list(ingest.facts["classes"])
        return cls(model, size, classes, views, batch_size)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32[B, C] for square pictures uint8[B, H, H, 3] of any size."""
        answers: NDArray[np.float32] = predict(
            self.model, resized(images, self.image_size_pixels), self.views, self.batch_size
        )
        return answers
