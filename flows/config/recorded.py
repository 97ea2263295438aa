"""The config in the record of a run, whichever version of hemaflow wrote it."""

from __future__ import annotations

from hemaflow.flows.config.changes import build, reset_without_effect
from hemaflow.flows.config.policies import Document
from hemaflow.flows.config.stages import PipelineConfig

FORMERLY_FILLED_IN = {
    "ingest": ("reference_sha256",),
    "train": ("initial_weights_sha256", "initial_classes", "ensemble_sha256"),
}
"""Stage → fields that earlier versions looked up and wrote into the config of a run."""


def recorded_config(document: Document) -> PipelineConfig:
    """Return the config that a run recorded, without what earlier versions filled in and what has no effect.

    Args:
        document: `RunRecord.config`.

    Raises:
        ConfigError: It is not the config of a run.
    """
    stages = {
        stage: {
            name: value
            for name, value in fields.items()
            if name not in FORMERLY_FILLED_IN.get(stage, ())
            or name in type(getattr(PipelineConfig(), stage)).model_fields
        }
        if stage in PipelineConfig.model_fields
        else fields
        for stage, fields in document.items()
    }
    return build(reset_without_effect(stages))
