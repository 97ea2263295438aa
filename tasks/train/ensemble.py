"""Ensembles: one classifier that answers with the mean of what several trained ones answer.

Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles,
arXiv:1612.01474, section 2.4: the members' probabilities are averaged.

The ensemble is a Keras model like any other, so evaluation, views and the submission take it as it is. It is
as many times as large and as slow as it has members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hemaflow.infra.errors import StageError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.result_names import result_key
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.model.ensembles import average
from hemaflow.tasks.records.prefetch import ArrivingShards
from hemaflow.tasks.records.tf_feed import VAL_BATCH_SIZE, validation_batches
from hemaflow.tasks.train.initial_weights import stored_model


def load_ensemble(store: Store, members: Sequence[str], sha256: Sequence[str], ingest: Manifest) -> Any:
    """Return the ensemble of models of the store: float32[B, H, W, 3] in 0..255 → float32[B, C].

    Args:
        store: Holds the models.
        members: `train:KEY` of each.
        sha256: Of each model, as it was when it was named.
        ingest: The images that it will be judged on.

    Raises:
        StageError: A model is gone or another one, or is one of other classes or sizes.
    """
    for member in members:
        _check_same(store, member, ingest)
    return average([stored_model(store, *member) for member in zip(members, sha256, strict=True)])


def validate(model: Any, parents: Parents) -> float | None:
    """Return the accuracy of a classifier on the val split of ingest, in 0..1; None where that is empty."""
    import keras

    ingest = parents["ingest"]
    if not ingest.facts["num_examples"]["val"]:
        return None
    shards = ArrivingShards(parents, ingest.matching("val-"))
    size, num_classes = int(ingest.facts["image_size_pixels"]), len(ingest.facts["classes"])
    metric = keras.metrics.CategoricalAccuracy()
    batches = validation_batches(shards, size, num_classes, VAL_BATCH_SIZE)
    for pixels, labels in batches:
        metric.update_state(labels, model.predict_on_batch(pixels))
    return float(metric.result())


def _check_same(store: Store, member: str, ingest: Manifest) -> None:
    found = load_manifest(store, "train", result_key(member))
    for fact in ("classes", "image_size_pixels"):
        if found and found[0].facts[fact] != ingest.facts[fact]:
            raise StageError(
                "A member of the ensemble was trained on images of other classes, or of another size.",
                expected=f"{fact} {ingest.facts[fact]}",
                received=f"{fact} {found[0].facts[fact]}",
                where=f"train.ensemble_of {member[:18]}…",
                remedy="Average runs on the same data with the same ingest.image_size_pixels.",
            )
