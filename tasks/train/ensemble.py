"""Ensembles: one classifier that averages the probabilities of several trained ones.

Source: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles,
arXiv:1612.01474, section 2.4: the members' probabilities are averaged.

The ensemble is a Keras model like any other, so evaluation, views and the submission use it unchanged. Its
size and its time grow with the number of members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemaflow.infra.errors import StageError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import IngestFacts, TrainFacts
from hemaflow.tasks.core.result_names import result_key
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.model.ensembles import average
from hemaflow.tasks.records.prefetch import PrefetchedShards
from hemaflow.tasks.records.tf_feed import VAL_BATCH_SIZE, validation_batches
from hemaflow.tasks.train.initial_weights import stored_model

if TYPE_CHECKING:
    import keras


def load_ensemble(
    store: Store, members: Sequence[str], sha256: Sequence[str], ingest: Manifest
) -> keras.Model:
    """Return an ensemble of models in the store: float32[B, H, W, 3] in 0..255 → float32[B, C].

    Args:
        store: Holds the models.
        members: `train:KEY` of each.
        sha256: SHA-256 of each model.
        ingest: The images that the ensemble will be evaluated on.

    Raises:
        StageError: A model was changed or removed, or takes images of other classes or of another size.
    """
    for member in members:
        _check_same(store, member, ingest)
    return average([stored_model(store, *member) for member in zip(members, sha256, strict=True)])


def validate(model: keras.Model, parents: Parents) -> float | None:
    """Return the accuracy of a classifier on the val split of ingest, in 0..1; None where that is empty."""
    import keras

    ingest = parents["ingest"]
    facts = IngestFacts.of(ingest)
    if not facts.num_examples["val"]:
        return None
    shards = PrefetchedShards(parents, ingest.matching("val-"))
    size, num_classes = facts.image_size_pixels, len(facts.classes)
    metric = keras.metrics.CategoricalAccuracy()
    batches = validation_batches(shards, size, num_classes, VAL_BATCH_SIZE)
    for pixels, labels in batches:
        metric.update_state(labels, model.predict_on_batch(pixels))
    return float(metric.result())


def _check_same(store: Store, member: str, ingest: Manifest) -> None:
    found = load_manifest(store, "train", result_key(member))
    if found is None:
        return
    images, model = IngestFacts.of(ingest), TrainFacts.of(found[0])
    for fact, expected, received in (
        ("classes", images.classes, model.classes),
        ("image_size_pixels", images.image_size_pixels, model.image_size_pixels),
    ):
        if expected != received:
            raise StageError(
                "A member of the ensemble was trained on images of other classes, or of another size.",
                expected=f"{fact} {expected}",
                received=f"{fact} {received}",
                where=f"train.ensemble_of {member[:18]}…",
                remedy="Average runs on the same data with the same ingest.image_size_pixels.",
            )
