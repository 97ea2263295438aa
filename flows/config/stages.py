"""The DAG as data: the six stages, what each builds on, and which libraries shape its bytes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.augment.config import AugmentConfig
from hemaflow.tasks.core.stage import StageConfig
from hemaflow.tasks.evaluate.config import EvaluateConfig
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.model.backbones import BACKBONES
from hemaflow.tasks.submit.config import SubmitConfig
from hemaflow.tasks.train.config import TrainConfig

StageName = Literal["ingest", "augment", "train", "predict", "evaluate", "submit"]
FromStage = Literal["", "ingest", "augment", "train", "predict", "evaluate", "submit"]
"""A stage, or none."""
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


class PipelineConfig(BaseModel):
    """The config of every stage: all that changes bytes, nothing that does not.

    predict has no section of its own: its config is made from that of evaluate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingest: IngestConfig = IngestConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    submit: SubmitConfig = SubmitConfig()

    def of(self, stage: StageName) -> StageConfig:
        """Return the config of a stage."""
        config: StageConfig = self.evaluate.passes() if stage == "predict" else getattr(self, stage)
        return config

    @model_validator(mode="after")
    def _images_are_large_enough(self) -> Self:
        own, least = self.ingest.image_size_pixels, BACKBONES[self.train.backbone].min_pixels
        if not self.train.ensemble_of and not self.train.input_size_pixels and own < least:
            raise ValueError(
                f"The backbone {self.train.backbone} takes images of at least {least} pixels, and "
                f"ingest.image_size_pixels={own}. Make them larger there, or have them resized in the model: "
                f"--set train.input_size_pixels={least}"
            )
        return self


@dataclass(frozen=True)
class Excerpt:
    """What a stage reads of a parent, where that is not all: nothing else of it is in the stage's key.

    Attributes:
        objects: Names of objects.
        facts: Names of facts.
    """

    objects: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of the DAG.

    Attributes:
        name: What it is called, in commands and in the store.
        parents: The stages whose results it reads.
        libraries: Distributions whose version is part of its key.
        preload: Functions that import the large libraries of its work, each as `package.module.function`; its
            worker calls them while the stage before it works.
        parts: What its parts are called that are written side by side: `shards`; empty where it has none.
        part_of: The stage in whose section of the config its options are, where it has none of its own. To
            begin with that stage is to make this one too, where it is missing.
        excerpts: Parent → what is read of it; a parent that is not named is read whole. The stage is given
            nothing else, so it cannot read what is not in its key.
    """

    name: StageName
    parents: tuple[StageName, ...]
    libraries: tuple[str, ...]
    preload: tuple[str, ...] = ()
    parts: str = ""
    part_of: StageName | None = None
    excerpts: Mapping[StageName, Excerpt] = field(default_factory=dict)

    @property
    def section(self) -> StageName:
        """The section of the config that holds its options."""
        return self.part_of or self.name

    def reads_of(self, parent: Manifest) -> Manifest:
        """Return what this stage reads of the result of a parent."""
        excerpt = self.excerpts.get(parent.stage)  # type: ignore[call-overload]
        return parent.excerpt(excerpt.objects, excerpt.facts) if excerpt else parent

    @property
    def fans_out(self) -> bool:
        """Whether it is made of parts that are written side by side."""
        return bool(self.parts)

    @property
    def module_name(self) -> str:
        """The module that does the work."""
        return f"hemaflow.tasks.{self.name}.stage"

    @property
    def module(self) -> ModuleType:
        """The module that does the work, imported; none of them loads TensorFlow by itself."""
        return importlib.import_module(self.module_name)


STAGES: dict[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "ingest",
            (),
            ("tensorflow", "tensorflow-datasets", "numpy", "pillow", "imagehash"),
            parts="chunks of images",
        ),
        Stage(
            "augment",
            ("ingest",),
            ("tensorflow", "keras", "keras-cv", "numpy", "pillow"),
            preload=("hemaflow.tasks.layers.keras_cv_chain.load_keras_cv",),
            parts="shards",
        ),
        Stage(
            "train",
            ("ingest", "augment"),
            ("tensorflow", "keras", "numpy"),
            preload=("hemaflow.tasks.core.keras_import.load_keras",),
        ),
        Stage(
            "predict",
            ("ingest", "train"),
            ("tensorflow", "keras", "numpy", "pillow"),
            part_of="evaluate",
        ),
        Stage("evaluate", ("ingest", "train", "predict"), ("numpy", "scikit-learn")),
        Stage(
            "submit",
            ("ingest", "train", "evaluate"),
            ("tensorflow", "keras", "numpy"),
            # Not the metrics: another metric is no reason to prove the same submission again.
            excerpts={
                "evaluate": Excerpt(
                    ("predictions-val.csv", "predictions-test.csv"), ("tta_views", "tta_reason")
                )
            },
        ),
    )
}
