"""Models of other runs that a config names: `run:RUN`, of the same store, becomes what that model is.

Where a run is named, only a store knows which model that is: the engine asks here before it makes a key, and
the key holds the model's content and classes, not the run.
"""

from __future__ import annotations

from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import result_of
from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.result_names import RESULT, RUN, result_key
from hemaflow.tasks.model.ensembles import ENSEMBLE


def with_models_found(config: PipelineConfig, store: Store) -> PipelineConfig:
    """Return a config whose models of other runs are `train:KEY`, with their digests and classes.

    Raises:
        ConfigError: The model to start from has another backbone.
        UserError: There is no such run or result, or the run has no model.
    """
    train = config.train
    update = {}
    if train.initial_weights.startswith((RUN, RESULT)):
        manifest = _model(store, train.initial_weights, "train.initial_weights")
        _check_backbone(manifest, train.initial_weights, train.backbone)
        update = {
            "initial_weights": f"{RESULT}{manifest.key}",
            "initial_weights_sha256": manifest.object("model.keras").sha256,
            "initial_classes": tuple(manifest.facts["classes"]),
        }
    if train.ensemble_of:
        members = [_model(store, name, "train.ensemble_of") for name in train.ensemble_of]
        update |= {
            "ensemble_of": tuple(f"{RESULT}{member.key}" for member in members),
            "ensemble_sha256": tuple(member.object("model.keras").sha256 for member in members),
        }
    return config.model_copy(update={"train": train.model_copy(update=update)}) if update else config


def as_found(config: PipelineConfig, asked: PipelineConfig, found: PipelineConfig) -> PipelineConfig:
    """Return a config that goes on with the models that an earlier run found.

    Args:
        config: What is asked for now.
        asked: What the earlier run was asked for.
        found: The same with the models found: of its names those count that are still asked for.
    """
    fields = {
        "initial_weights": ("initial_weights", "initial_weights_sha256", "initial_classes"),
        "ensemble_of": ("ensemble_of", "ensemble_sha256"),
    }
    update = {
        field: getattr(found.train, field)
        for name, belonging in fields.items()
        if getattr(config.train, name) == getattr(asked.train, name)
        for field in belonging
    }
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def _check_backbone(manifest: Manifest, name: str, backbone: str) -> None:
    its_own = manifest.facts["backbone"]
    if its_own == ENSEMBLE:
        raise ConfigError(
            f"Training cannot start from {name}: it is an ensemble, of several models.",
            where="train.initial_weights",
            remedy="Name the run of one of its members.",
        )
    if its_own != backbone:
        raise ConfigError(
            f"Training cannot start from {name}: its backbone is another.",
            expected=f"train.backbone={backbone}",
            received=f"train.backbone={its_own}",
            where="train.initial_weights",
            remedy=f"Train the same one with --set train.backbone={its_own}, or name a run with {backbone}.",
        )


def _model(store: Store, name: str, field: str) -> Manifest:
    """Return the result of train that is named, `run:RUN` or `train:KEY`. Raises UserError."""
    if key := result_key(name):
        found = load_manifest(store, "train", key)
        if found is None:
            raise UserError(
                "There is no such model in this store.",
                expected="the key of a complete result of train",
                received=f"{field}={name}",
                where=f"{store.url}/stages/train/{key}",
                remedy="See the keys of a run with: hemaflow show RUN --json",
            )
        return found[0]
    return result_of(store, find_run(store, name.removeprefix(RUN)), "train")
