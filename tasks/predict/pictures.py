"""The pictures that predict keeps for the report, in `pictures.npz`: spoiled images and Grad-CAM maps.

All are of one split: test, or val where test is empty (`PredictFacts.shown_split`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.inference.views import average
from hemaflow.tasks.predict.medmnist_c import MEDMNIST_C
from hemaflow.tasks.predict.probabilities import SpoiledPredictions
from hemaflow.tasks.predict.spoiled import SpoiledPictures
from hemaflow.tasks.records.arrays import read_arrays, write_arrays

NAME = "pictures.npz"


@dataclass(frozen=True)
class Explained:
    """One image with its Grad-CAM map."""

    id: str
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    heat: NDArray[np.float32]
    """float32[H, W] in 0..1: how much each place supports the predicted class."""
    label: int
    predicted: int
    """What the model names the unchanged image."""
    probability: float
    """Probability of the predicted class, in 0..1."""


class Spoiled(NamedTuple):
    """One spoiled image."""

    corruption: str
    """A name of MEDMNIST_C, at severity 5; "" for the heavy mix."""
    image: NDArray[np.uint8]
    """uint8[H, W, 3] in 0..255."""
    label: int
    predicted: int


@dataclass(frozen=True)
class Examples:
    """Spoiled images to show."""

    heavy_mix: list[Spoiled] = field(default_factory=list)
    """The first image of each class under the heavy mix."""
    original: NDArray[np.uint8] | None = None
    """uint8[H, W, 3], the image that is corrupted."""
    corruptions: list[Spoiled] = field(default_factory=list)
    """That image under each corruption of MedMNIST-C at severity 5."""


def write_pictures(
    spoiled: tuple[SpoiledPredictions, SpoiledPictures] | None, explained: Sequence[Explained]
) -> bytes:
    """Return the pictures to keep.

    Args:
        spoiled: The spoiled images of the split, and what was predicted of them; None where there are none.
        explained: The images to explain.
    """
    arrays = {
        "explained_ids": np.array([case.id for case in explained], np.str_),
        "explained": np.array([case.image for case in explained], np.uint8),
        "heat": np.array([case.heat for case in explained], np.float32),
        "explained_labels": np.array([(case.label, case.predicted) for case in explained], np.int64),
        "explained_probabilities": np.array([case.probability for case in explained], np.float64),
    }
    if spoiled and len(spoiled[0].labels):
        predicted, pictures = spoiled
        rows = list(pictures.first)
        arrays |= {
            "heavy_mix": np.stack(list(pictures.first.values())),
            "heavy_mix_labels": predicted.labels[rows],
            "heavy_mix_probabilities": np.array(predicted.heavy_mix[:, rows]),
        }
        if pictures.original is not None and predicted.medmnistc is not None:
            arrays |= {
                "original": pictures.original,
                "original_label": predicted.labels[:1],
                "corrupted": np.stack(pictures.corrupted),
                "corrupted_probabilities": np.array(predicted.medmnistc[:, -1, 0]),
            }
    return write_arrays(arrays)


def read_pictures(
    store: Store, predicted: Manifest, all_views: Sequence[str], used: Sequence[str]
) -> tuple[Examples, list[Explained]]:
    """Return the spoiled images to show, and the explained ones.

    Args:
        store: Holds the result.
        predicted: The result of predict.
        all_views: The views that it predicted.
        used: The views that a prediction under the heavy mix is averaged over.
    """
    arrays = read_arrays(predicted.read(store, NAME))
    explained = [
        Explained(str(image_id), image, heat, int(labels[0]), int(labels[1]), float(probability))
        for image_id, image, heat, labels, probability in zip(
            arrays["explained_ids"],
            arrays["explained"],
            arrays["heat"],
            arrays["explained_labels"],
            arrays["explained_probabilities"],
            strict=True,
        )
    ]
    if "heavy_mix" not in arrays:
        return Examples(), explained
    probabilities = arrays["heavy_mix_probabilities"]
    named = average([probabilities[all_views.index(view)] for view in used]).argmax(1).tolist()
    labels = arrays["heavy_mix_labels"].tolist()
    mixed = [
        Spoiled("", image, label, predicted)
        for image, label, predicted in zip(arrays["heavy_mix"], labels, named, strict=True)
    ]
    if "original" not in arrays:
        return Examples(mixed), explained
    label, named = int(arrays["original_label"][0]), arrays["corrupted_probabilities"].argmax(1).tolist()
    corruptions = [
        Spoiled(name, image, label, predicted)
        for name, image, predicted in zip(MEDMNIST_C, arrays["corrupted"], named, strict=True)
    ]
    return Examples(mixed, arrays["original"], corruptions), explained
