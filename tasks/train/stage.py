"""Train a classifier: transfer on a frozen backbone, then fine-tuning.

Reads the training shards of augment and the validation shards of ingest. Writes

    model.keras   the classifier, of built-in Keras layers only, without the online augmentation
    history.json  one row per epoch

Guarantees: a checkpoint is kept after every epoch and on SIGTERM, as one object; a training that was cut off
goes on from it and takes, all in all, the optimizer steps of an uninterrupted one. Memory does not grow with
the number of images. Nothing but Keras and one of its backends is needed: under `KERAS_BACKEND=jax`
TensorFlow need not be installed.
"""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from typing import Any

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.result_names import result_key
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.model.ensembles import ENSEMBLE
from hemaflow.tasks.model.saving import save_model
from hemaflow.tasks.train.config import ResolvedTrainConfig
from hemaflow.tasks.train.data_overlap import already_learnt, learnt_from
from hemaflow.tasks.train.ensemble import load_ensemble, validate
from hemaflow.tasks.train.loop import Fitting

log = logging.getLogger(__name__)


def run(parents: Parents, config: ResolvedTrainConfig, draft: Draft) -> Manifest:
    """Train, from a kept checkpoint where there is one, and write the model and its history.

    Raises:
        Interrupted: SIGTERM came; a checkpoint is kept.
        StageError: The loss is no number any more, or the initial weights cannot be had.
    """
    keras = load_keras()
    keras.utils.clear_session()  # names of layers count what this process built before
    devices = use_devices(config.mixed_precision)
    keras.utils.set_random_seed(config.seed)
    with devices:
        if config.ensemble_of:
            return _average(parents, config, draft)
        fitting = Fitting(parents, config, draft)
        fitting.run()
        model = fitting.finished_model()
    return _commit(
        parents,
        config,
        draft,
        model,
        fitting.history,
        backbone=config.backbone,
        optimizer_steps=fitting.optimizer_steps,
        best_epoch=fitting.best.epoch,
        best_val_accuracy=fitting.best.accuracy if fitting.best.accuracy >= 0 else None,
        averaged_epochs=fitting.averaged_epochs,
    )


def _average(parents: Parents, config: ResolvedTrainConfig, draft: Draft) -> Manifest:
    """Write the ensemble of the config, as a model that took no training."""
    ingest = parents["ingest"]
    model = load_ensemble(parents.store, config.ensemble_of, config.ensemble_sha256, ingest)
    accuracy = validate(model, parents)
    log.info("averaging %d models: val accuracy %s", len(config.ensemble_of), accuracy)
    return _commit(
        parents,
        config,
        draft,
        model,
        [],
        backbone=ENSEMBLE,
        optimizer_steps=0,
        best_epoch=0,
        best_val_accuracy=accuracy,
    )


def _commit(
    parents: Parents,
    config: ResolvedTrainConfig,
    draft: Draft,
    model: Any,
    history: list[dict[str, Any]],
    **facts: Any,
) -> Manifest:
    ingest = parents["ingest"]
    digests = learnt_from(ingest, _other_models(parents.store, config))
    learnt = already_learnt(parents.store, ingest, digests)
    if any(count != 0 for count in learnt.values()):
        log.warning("images that other runs' data had to learn from: %s", learnt)
    with scratch_folder() as folder:
        path = folder / "model.keras"
        save_model(model, path)
        draft.put_file("model.keras", path)
    draft.put("history.json", json.dumps(history, indent=1).encode())
    return draft.commit(
        epochs=len(history),
        num_parameters=int(model.count_params()),
        image_size_pixels=ingest.facts["image_size_pixels"],
        classes=ingest.facts["classes"],
        learnt_from=digests,
        already_learnt=learnt,
        **facts,
    )


def _other_models(store: Store, config: ResolvedTrainConfig) -> list[Manifest]:
    """Return the results of train that the config begins from, or averages."""
    names = config.ensemble_of or (config.initial_weights,)
    found = (load_manifest(store, "train", key) for key in map(result_key, names) if key)
    return [loaded[0] for loaded in found if loaded]


def use_devices(mixed_precision: str) -> Any:
    """Set up what devices there are, and return a context in which models are built for them.

    Under the tensorflow backend all GPUs share the batches; under any other, one device does the work.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        accelerators = [device for device in keras.distribution.list_devices() if "cpu" not in device]
        policy = "mixed_bfloat16" if accelerators and mixed_precision == "auto" else "float32"
        keras.mixed_precision.set_global_policy(policy)
        log.info("training on %s in %s", accelerators[0] if accelerators else "CPU", policy)
        return nullcontext()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    policy = "float32"
    if gpus and mixed_precision == "auto":
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        # Tensor cores compute in bfloat16 from compute capability 8.0 on.
        policy = "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
    keras.mixed_precision.set_global_policy(policy)
    log.info("training on %s in %s", f"{len(gpus)} GPU" if gpus else "CPU", policy)
    strategy = tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
    return strategy.scope()
