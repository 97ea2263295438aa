"""Initial weights that are another run's model: `run:RUN`, of the same store, becomes what that model is.

Where a run is named, only a store knows which model that is: the engine asks here before it makes a key, and
the key holds the model's content and classes, not the run.
"""

from __future__ import annotations

from flows.record import find_run
from flows.stages import PipelineConfig
from infra.errors import ConfigError, UserError
from infra.manifest import Manifest, load_manifest
from infra.store import Store
from tasks.starting import RESULT, result_key

RUN = "run:"
"""How initial weights begin that are the model of a run; `run:champion` is that of the champion."""


def with_model_found(config: PipelineConfig, store: Store) -> PipelineConfig:
    """Return a config whose initial weights are `train:KEY`, with digest and classes, where they name a run.

    Raises:
        ConfigError: The model has another backbone.
        UserError: There is no such run or result, or the run has no model.
    """
    weights, backbone = config.train.initial_weights, config.train.backbone
    if weights.startswith(RUN):
        manifest = _model_of(store, weights.removeprefix(RUN))
    elif key := result_key(weights):
        manifest = _result(store, key)
    else:
        return config
    if manifest.facts["backbone"] != backbone:
        raise ConfigError(
            f"Training cannot start from {weights}: its backbone is another.",
            expected=f"train.backbone={backbone}",
            received=f"train.backbone={manifest.facts['backbone']}",
            where="train.initial_weights",
            remedy=f"Train the same one with --set train.backbone={manifest.facts['backbone']}, or name a "
            f"run with {backbone}.",
        )
    update = {
        "initial_weights": f"{RESULT}{manifest.key}",
        "initial_weights_sha256": manifest.object("model.keras").sha256,
        "initial_classes": tuple(manifest.facts["classes"]),
    }
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def _model_of(store: Store, run: str) -> Manifest:
    record = find_run(store, run)
    key = record.key("train")
    found = load_manifest(store, "train", key) if key else None
    if found is None:
        raise UserError(
            f"Training cannot start from run {record.run}: it has no model.",
            expected="a run that came to the end of train, and whose results are kept",
            received=f"a run that is {record.status}",
            where=f"{store.url}/runs/{record.run}.json",
            remedy="List the runs with `hemaflow runs`, and name another with "
            "--set train.initial_weights=run:RUN.",
        )
    return found[0]


def _result(store: Store, key: str) -> Manifest:
    found = load_manifest(store, "train", key)
    if found is None:
        raise UserError(
            "There is no such model in this store.",
            expected="the key of a complete result of train",
            received=f"train.initial_weights={RESULT}{key}",
            where=f"{store.url}/stages/train/{key}",
            remedy="See the keys of a run with: hemaflow show RUN --json",
        )
    return found[0]
