"""What a run is asked to do: data, recipe, changes, and which stages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hemaflow.flows.config.changes import change
from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.stages import FromStage, PipelineConfig, StageName

CUSTOM = "custom"
"""What the record of a run whose config was given field by field has for a recipe."""


class RunRequest(BaseModel):
    """What a run is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    recipe: str = "demo"
    """The recipe whose config is used."""
    data: str = ""
    """The source of the images; the recipe's own where empty."""
    changes: tuple[str, ...] = ()
    """Changes to the recipe's config: `stage.field=value`."""
    from_stage: FromStage = ""
    """Compute this stage and all after it again."""
    until_stage: StageName = "submit"
    """Stop after this stage."""
    config: PipelineConfig | None = None
    """The whole config, field by field, instead of the recipe's; changes apply to it."""
    of_run: str = ""
    """Use this run's results as they are, whatever changed since: those before from_stage, or all it has."""
    store: str = ""
    """The object store; that of HEMAFLOW_STORE where empty."""

    def pipeline_config(self) -> PipelineConfig:
        """Return the config that was given, or the recipe's, with the changes. Raises ConfigError."""
        return change(self.config or recipe_named(self.recipe).config, self.changes)
