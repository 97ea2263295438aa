"""Models of other runs that a config names: `run:RUN` becomes `train:KEY`, the result that the run has now.

Only a store knows which model a run has, so the engine asks here before it makes a key. The key then holds
the model's content and classes, not the run (`tasks/train/config.py`).
"""

from __future__ import annotations

from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.record import result_of
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.result_names import RESULT, RUN


def with_models_found(config: PipelineConfig, store: Store) -> PipelineConfig:
    """Return a config that names models of runs as `train:KEY`.

    Raises:
        UserError: There is no such run, or it has no model.
    """

    def found(name: str) -> str:
        if not name.startswith(RUN):
            return name
        return RESULT + result_of(store, find_run(store, name.removeprefix(RUN)), "train").key

    train = config.train
    update = {
        "initial_weights": found(train.initial_weights),
        "ensemble_of": tuple(map(found, train.ensemble_of)),
    }
    return config.model_copy(update={"train": train.model_copy(update=update)})


def as_found(config: PipelineConfig, asked: PipelineConfig, found: PipelineConfig) -> PipelineConfig:
    """Return a config that goes on with the models that an earlier run found.

    Args:
        config: What is asked for now.
        asked: What the earlier run was asked for.
        found: The same with the models found: of its names those count that are still asked for.
    """
    update = {
        field: getattr(found.train, field)
        for field in ("initial_weights", "ensemble_of")
        if getattr(config.train, field) == getattr(asked.train, field)
    }
    return config.model_copy(update={"train": config.train.model_copy(update=update)})
