"""The probabilities of a split as predict keeps them, and how later stages read them.

    images-val.csv                    id, label, spoiled: whether the image is among the spoiled ones (1 or 0)
    probabilities-val-clean.npy       float32[V, N, C], each view of the unchanged images
    probabilities-val-heavy_mix.npy   float32[V, M, C], each view of the images under the heavy mix
    probabilities-val-medmnistc.npy   float32[11, 5, M, C], the unchanged view under each corruption of
                                      MedMNIST-C, in its order, at severities 1 to 5

and the same for test. V views in the order of `PredictFacts.views`, N images of the split in the order of
ingest's index, M of them spoiled, C classes. What was not asked for is absent. The arrays are read and
written through memory maps: they may be larger than the memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import PredictFacts, Split
from hemaflow.tasks.predict.config import IDENTITY
from hemaflow.tasks.records.table import read_table, write_table


class SpoiledPredictions(NamedTuple):
    """A model's probabilities for the spoiled images of a split."""

    labels: NDArray[np.int64]
    """int64[M], the true labels."""
    heavy_mix: NDArray[np.float32]
    """float32[V, M, C], each view under the heavy mix."""
    medmnistc: NDArray[np.float32] | None
    """float32[11, 5, M, C], under each corruption and severity; None where they were not asked for."""


class SplitPredictions(NamedTuple):
    """A model's probabilities for a split, under every condition that was asked for."""

    split: Split
    views: tuple[str, ...]
    """The views, the unchanged image first."""
    ids: list[str]
    labels: NDArray[np.int64]
    """int64[N], the true labels."""
    clean: NDArray[np.float32]
    """float32[V, N, C], the probabilities of each view of the clean images."""
    spoiled: SpoiledPredictions | None
    """None where no spoiled images were asked for."""

    def by_view(self, probabilities: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return float32[V, N, C], of clean images or under the heavy mix, as view → float32[N, C]."""
        return dict(zip(self.views, probabilities, strict=True))

    @property
    def unchanged(self) -> NDArray[np.float32]:
        """float32[N, C]: the probabilities of the unchanged images."""
        return self.by_view(self.clean)[IDENTITY]


def file_name(split: str, condition: str) -> str:
    """Return e.g. `probabilities-val-clean.npy`."""
    return f"probabilities-{split}-{condition}.npy"


def new_array(folder: Path, split: str, condition: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return zeros float32[shape] that are a file of the folder, not memory.

    Raises:
        OSError: There is no space for it.
    """
    path = folder / file_name(split, condition)
    array: np.memmap[Any, np.dtype[np.float32]] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):  # else a full disk ends the process when a page is written
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def put_predictions(
    draft: Draft, folder: Path, found: SplitPredictions, is_spoiled: NDArray[np.bool_]
) -> None:
    """Write what was predicted of a split to the result.

    Args:
        draft: The result.
        folder: Holds the arrays of `new_array`.
        found: What was predicted.
        is_spoiled: bool[N], which images are among the spoiled ones.
    """
    rows = zip(found.ids, found.labels.tolist(), is_spoiled.astype(int).tolist(), strict=True)
    draft.put(f"images-{found.split}.csv", write_table([("id", "label", "spoiled"), *rows]))
    arrays = {"clean": found.clean}
    if found.spoiled:
        arrays["heavy_mix"] = found.spoiled.heavy_mix
        if found.spoiled.medmnistc is not None:
            arrays["medmnistc"] = found.spoiled.medmnistc
    for condition, array in arrays.items():
        if isinstance(array, np.memmap):
            array.flush()
        name = file_name(found.split, condition)
        draft.put_file(name, folder / name)


def load_predictions(store: Store, predicted: Manifest, split: Split) -> SplitPredictions:
    """Return what predict kept of a split.

    Args:
        store: Holds the result.
        predicted: The result of predict.
        split: val or test.
    """
    _, *rows = read_table(predicted.read(store, f"images-{split}.csv"))
    labels = np.array([int(label) for _, label, _ in rows], np.int64)
    is_spoiled = np.array([spoiled == "1" for _, _, spoiled in rows], np.bool_)

    def array(condition: str) -> NDArray[np.float32]:
        path = predicted.path(store, file_name(split, condition))
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False), np.float32)

    spoiled = None
    if predicted.matching(file_name(split, "heavy_mix")):
        corrupted = array("medmnistc") if predicted.matching(file_name(split, "medmnistc")) else None
        spoiled = SpoiledPredictions(labels[is_spoiled], array("heavy_mix"), corrupted)
    views = tuple(PredictFacts.of(predicted).views)
    return SplitPredictions(split, views, [row[0] for row in rows], labels, array("clean"), spoiled)
