"""Train a classifier: transfer on a frozen backbone, then fine-tuning.

Reads the training shards of augment and the validation shards of ingest. Writes

    model.keras   the classifier, of built-in Keras layers only, without the online augmentation
    history.json  one row per epoch (`tasks/core/history.py`)

Guarantees: it keeps a checkpoint after every epoch and on SIGTERM, as one object; an interrupted training
continues from it and takes, in all, the optimizer steps of an uninterrupted one. Memory does not grow with
the number of images. It needs only Keras and one backend: under `KERAS_BACKEND=jax` it needs no TensorFlow.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import IngestFacts, TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.result_names import result_key
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.model.ensembles import ENSEMBLE
from hemaflow.tasks.model.saving import save_model
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.data_overlap import data_overlap, trained_on
from hemaflow.tasks.train.devices import use_devices
from hemaflow.tasks.train.ensemble import load_ensemble, validate
from hemaflow.tasks.train.loop import Fitting

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


def run(parents: Parents, config: ResolvedTrainConfig, draft: Draft) -> Manifest:
    """Train, from a kept checkpoint where there is one, and write the model and its history.

    Raises:
        Interrupted: SIGTERM came; a checkpoint is kept.
        StageError: The loss is no longer a number, or the initial weights are missing.
    """
    keras = load_keras()
    # Names of layers count what this process built before; its memory was freed when the job came in.
    keras.utils.clear_session(free_memory=False)
    with use_devices(config.mixed_precision, together=not config.ensemble_of):
        keras.utils.set_random_seed(config.seed)
        made = _average(parents, config) if config.ensemble_of else _train(parents, config, draft)
    model, history, facts = made
    if any(count != 0 for count in facts.data_overlap.values()):
        log.warning("images on which the models that this one builds on were trained: %s", facts.data_overlap)
    with scratch_folder() as folder:
        path = folder / "model.keras"
        save_model(model, path)
        draft.put_file("model.keras", path)
    draft.put("history.json", json.dumps([row.document() for row in history], indent=1).encode())
    return facts.commit(draft)


def _train(
    parents: Parents, config: ResolvedTrainConfig, draft: Draft
) -> tuple[keras.Model, Sequence[EpochRow], TrainFacts]:
    """Return the trained model, its history and its facts."""
    fitting = Fitting(parents, config, draft)
    fitting.run()
    model, position = fitting.finished_model(), fitting.position
    facts = _facts(parents, config, model).model_copy(
        update={
            "backbone": config.backbone,
            "epochs": len(position.history),
            "optimizer_steps": position.optimizer_steps,
            "best_epoch": position.best.epoch,
            "best_val_accuracy": position.best.accuracy if position.best.accuracy >= 0 else None,
            "averaged_epochs": fitting.averaged_epochs,
        }
    )
    return model, position.history, facts


def _average(
    parents: Parents, config: ResolvedTrainConfig
) -> tuple[keras.Model, Sequence[EpochRow], TrainFacts]:
    """Return the ensemble of the config, an empty history and its facts."""
    ingest = parents["ingest"]
    model = load_ensemble(parents.store, config.ensemble_of, config.ensemble_sha256, ingest)
    accuracy = validate(model, parents)
    log.info("averaging %d models: val accuracy %s", len(config.ensemble_of), accuracy)
    facts = _facts(parents, config, model).model_copy(update={"best_val_accuracy": accuracy})
    return model, (), facts


def _facts(parents: Parents, config: ResolvedTrainConfig, model: keras.Model) -> TrainFacts:
    """Return the facts of a model that took no training."""
    ingest = parents["ingest"]
    images = IngestFacts.of(ingest)
    digests = trained_on(ingest, _other_models(parents.store, config))
    return TrainFacts(
        epochs=0,
        num_parameters=int(model.count_params()),
        image_size_pixels=images.image_size_pixels,
        classes=images.classes,
        backbone=ENSEMBLE,
        optimizer_steps=0,
        best_epoch=0,
        best_val_accuracy=None,
        trained_on=digests,
        data_overlap=data_overlap(parents.store, ingest, digests),
    )


def _other_models(store: Store, config: ResolvedTrainConfig) -> list[Manifest]:
    """Return the results of train that the config starts from, or averages."""
    names = config.ensemble_of or (config.initial_weights,)
    found = (load_manifest(store, "train", key) for key in map(result_key, names) if key)
    return [loaded[0] for loaded in found if loaded]
