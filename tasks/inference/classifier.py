"""A trained model that classifies the pictures of any data set in the store.

Reads `model.keras` of train and the shards of ingest, batch by batch; writes nothing. Resizes pictures to the
model's size as ingest does. Needs no TensorFlow under another Keras backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.views import predict
from hemaflow.tasks.records.schema import read_batches
from hemaflow.tasks.sources.images import fit

if TYPE_CHECKING:
    import keras


class Batch(NamedTuple):
    """Some pictures of a split."""

    ids: list[str]
    images: NDArray[np.uint8]
    """uint8[B, H, W, 3]."""
    labels: NDArray[np.int64]
    """int64[B]; they count the classes of that result of ingest."""


def split_batches(parents: Parents, ingest: Manifest, split: str, batch_size: int) -> Iterator[Batch]:
    """Yield the pictures of a split in the order of the index, in bounded memory."""
    size = IngestFacts.of(ingest).image_size_pixels
    shards = [parents.path(stored) for stored in ingest.matching(f"{split}-")]
    for batch in read_batches(shards, size, batch_size):
        yield Batch(batch.ids, batch.images, batch.labels.argmax(1).astype(np.int64))


def read_images(
    parents: Parents, split: str, rows: Iterable[int], batch_size: int
) -> dict[int, NDArray[np.uint8]]:
    """Return some images of a split: row → uint8[H, W, 3]."""
    wanted = sorted(set(rows))
    images: dict[int, NDArray[np.uint8]] = {}
    start = 0
    for batch in split_batches(parents, parents["ingest"], split, batch_size) if wanted else ():
        stop = start + len(batch.ids)
        images |= {row: batch.images[row - start].copy() for row in wanted if start <= row < stop}
        if len(images) == len(wanted):
            break
        start = stop
    return images


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
        batch_size: Number of images at once on the device.
    """

    model: keras.Model
    image_size_pixels: int
    classes: list[str]
    views: Sequence[str]
    batch_size: int

    @classmethod
    def load(
        cls, parents: Parents, train: Manifest, ingest: Manifest, views: Sequence[str], batch_size: int
    ) -> Classifier:
        """Load the model of a result of train, in safe mode: no code in it is run.

        Args:
            parents: The store.
            train: The result of train with the model.
            ingest: The result of ingest that it was trained on.
            views: Names of views.
            batch_size: Images at once on the device.
        """
        keras = load_keras()
        path = parents.path(train.object("model.keras"))
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        facts = IngestFacts.of(ingest)
        return cls(model, facts.image_size_pixels, facts.classes, views, batch_size)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32[B, C] for square pictures uint8[B, H, H, 3] of any size."""
        fitted = resized(images, self.image_size_pixels)
        return predict(self.model, fitted, self.views, self.batch_size)
