"""Runs the trained model over the val and test images, clean and spoiled, and keeps its probabilities.

This is the only stage after train that needs the network to tell how good the model is: metrics, intervals,
the choice of views, calibration and the report are computed from what it keeps. Reads `model.keras` of train
and the val and test shards of ingest. Writes

    images-val.csv, probabilities-val-*.npy     see `tasks/predict/probabilities.py`
    images-test.csv, probabilities-test-*.npy   the same for test
    pictures.npz                                see `tasks/predict/pictures.py`

Guarantees: every view is predicted once on each split, clean and under the heavy mix, so that a later choice
of views needs no other pass; memory does not grow with the number of images, except for a few bytes each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hemaflow.infra.results.draft import Draft, Progress
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts, PredictFacts, Split
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference.classifier import split_batches
from hemaflow.tasks.inference.views import predict_each
from hemaflow.tasks.predict.config import PredictConfig
from hemaflow.tasks.predict.explain import explain
from hemaflow.tasks.predict.pictures import NAME, write_pictures
from hemaflow.tasks.predict.probabilities import SplitPredictions, new_array, put_predictions
from hemaflow.tasks.predict.spoiled import SpoiledPictures, drawn, predict_spoiled

if TYPE_CHECKING:
    import keras


class Predicted(NamedTuple):
    """What came of predicting a split."""

    predictions: SplitPredictions
    pictures: SpoiledPictures | None
    """Spoiled images to show; None where none were asked for."""


def run(parents: Parents, config: PredictConfig, draft: Draft) -> Manifest:
    """Predict val and test under every condition, and explain a few images.

    Raises:
        StoreFull: There is no space for the probabilities.
    """
    keras = load_keras()
    model = keras.saving.load_model(
        parents["train"].path(parents.store, "model.keras"), compile=False, safe_mode=True
    )
    counts = IngestFacts.of(parents["ingest"]).num_examples
    shown_split: Split = "test" if counts["test"] else "val"
    with scratch_folder() as folder:
        for split in ("val", "test"):
            found, pictures = predict_split(parents, model, split, config, folder, draft.progress)
            put_predictions(draft, folder, found, drawn(counts[split], config))
            if split == shown_split:
                spoiled = (found.spoiled, pictures) if found.spoiled and pictures else None
                draft.put(NAME, write_pictures(spoiled, explain(parents, model, found, config)))
    return PredictFacts(views=list(config.views), shown_split=shown_split).commit(draft)


def predict_split(
    parents: Parents,
    model: keras.Model,
    split: Split,
    config: PredictConfig,
    folder: Path,
    progress: Progress,
) -> Predicted:
    """Return the probabilities of a split in each view, and of its spoiled images; holds only one batch.

    Args:
        parents: Holds `ingest`.
        model: A Keras model, float32[B, H, W, 3] in 0..255 → float32[B, C].
        split: val or test.
        config: Which passes to make.
        folder: Where the probabilities are written to; the arrays that are returned are maps of its files.
        progress: Receives the progress.
    """
    facts = IngestFacts.of(parents["ingest"])
    total = facts.num_examples[split]
    ids: list[str] = []
    labels = np.zeros(total, np.int64)
    clean = new_array(folder, split, "clean", (len(config.views), total, len(facts.classes)))
    for batch in split_batches(parents, parents["ingest"], split, config.batch_size):
        rows = slice(len(ids), len(ids) + len(batch.ids))
        labels[rows] = batch.labels
        clean[:, rows] = predict_each(model, batch.images, config.views, config.batch_size)
        ids += batch.ids
        progress(len(ids), total, f"{split} images")
    spoiled, pictures = (
        (None, None)
        if config.robustness == "none"
        else predict_spoiled(parents, model, split, config, folder, progress)
    )
    return Predicted(SplitPredictions(split, config.views, ids, labels, clean, spoiled), pictures)
