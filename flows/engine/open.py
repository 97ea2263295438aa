"""The engine for a request: opens the store, builds the config, and pins the results of an earlier run."""

from __future__ import annotations

from hemaflow.flows.config.changes import change
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.recorded import recorded_config
from hemaflow.flows.config.request import CUSTOM, RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES, STAGES, PipelineConfig, StageName
from hemaflow.flows.engine.engine import Engine, Pins
from hemaflow.flows.engine.named_models import as_found
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.errors import ConfigError, UserError
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store

MODELS = ("backbone", "initial_weights", "ensemble_of")
"""The fields of train that say which models a run builds on. No other fields of an earlier run are read:
earlier versions allowed what is refused now."""


def open_engine(request: RunRequest, settings: Settings) -> Engine:
    """Return the engine that decides for this request. Raises UserError."""
    store = open_store(request.store or settings.store)
    config, pins = request.pipeline_config(), None
    if request.of_run:
        earlier = find_run(store, request.of_run)
        pins = _pins(request, store, earlier)
        config = _with_its_models(config, earlier)
    data = request.data or recipe_named(request.recipe).data
    return Engine(store, config, data, settings, request.from_stage, request.until_stage, pins)


def _pins(request: RunRequest, store: Store, record: RunRecord) -> Pins:
    if request.from_stage != "ingest" and request.data not in ("", record.data):
        raise ConfigError(
            f"Run {record.run} was made from other data, and its results are used as they are.",
            expected=f"--data {record.data}, or none",
            received=f"--data {request.data}",
            remedy="Leave out --data, or leave out --of to begin with that data.",
        )
    config = request.pipeline_config()
    begin = STAGE_NAMES.index(request.from_stage) if request.from_stage else len(STAGE_NAMES)
    manifests: dict[StageName, Manifest] = {}
    for stage in STAGE_NAMES[:begin]:
        key = record.key(stage)
        found = load_manifest(store, stage, key) if key else None
        is_asked_anew = STAGES[stage].section in STAGE_NAMES[begin:]
        if found and not (is_asked_anew and found[0].inputs.config != config.of(stage).key_document()):
            manifests[stage] = found[0]
        elif is_asked_anew:  # the predictions are others than that run's, or a version without them made it
            break
        elif request.from_stage or not manifests:
            raise UserError(
                f"Run {record.run} has no result of {stage} to go on from.",
                received=", ".join(manifests) or "no result at all",
                where=store.url,
                remedy=f"Begin with --from {stage}, name another run, or leave out --of.",
            )
        else:
            break
    return Pins(record.run, manifests)


def _with_its_models(config: PipelineConfig, earlier: RunRecord) -> PipelineConfig:
    """Return a config with the models that an earlier run found, where it names them as that run did."""
    train = earlier.config.get("train", {})
    found = recorded_config({"train": {field: train[field] for field in MODELS if field in train}})
    if earlier.recipe == CUSTOM:
        return as_found(config, found, found)
    return as_found(config, _asked(earlier), found)


def _asked(earlier: RunRecord) -> PipelineConfig:
    """Return an earlier run's recipe with those of its changes that name models."""
    named = {text.partition("=")[0].strip(): text for text in earlier.changes}
    fields = ["ensemble_of"] if "train.ensemble_of" in named else MODELS
    changes = [named[f"train.{field}"] for field in fields if f"train.{field}" in named]
    return change(recipe_named(earlier.recipe).config, changes)
