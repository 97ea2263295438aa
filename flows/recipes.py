"""Recipes: named configs, each with what it is for, what it costs and what it was measured to reach."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from flows.stages import PipelineConfig
from infra.errors import ConfigError, nearest


@dataclass(frozen=True)
class Recipe:
    """A named config.

    Attributes:
        name: What `--recipe` calls it.
        summary: Its first line.
        description: What it is for, with measured figures.
        data: The source it uses when `--data` names none.
        config: The config of every stage.
    """

    name: str
    summary: str
    description: str
    data: str
    config: PipelineConfig


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name. Raises ConfigError."""
    if name not in RECIPES:
        raise ConfigError(
            f"There is no recipe {name!r}.",
            expected=nearest(name, RECIPES),
            remedy="List them with: hemaflow recipes",
        )
    return _recipe(name, RECIPES[name])


def _recipe(name: str, build: Callable[[], tuple[str, PipelineConfig]]) -> Recipe:
    data, config = build()
    description = inspect.getdoc(build) or ""
    return Recipe(name, description.partition("\n")[0], description, data, config)


def demo() -> tuple[str, PipelineConfig]:
    """A first look: drawn cells and a small network; everything is real but the data."""
    return "sample", PipelineConfig.model_validate(
        {
            "augment": {
                "copies": 1,
                "layers": [
                    {"name": "RandomFlip", "factors": {"mode": "horizontal_and_vertical"}},
                    {"name": "RandomRotation", "factors": {"factor": 0.5}},
                    {"name": "RandomBrightness", "factors": {"factor": 0.1}},
                ],
            },
            "train": {
                "backbone": "cnn",
                "head_units": [128],
                "fine_tuning": {"epochs": 8, "learning_rate": 2e-3},
                "batch_size": 32,
            },
        }
    )


RECIPES: dict[str, Callable[[], tuple[str, PipelineConfig]]] = {"demo": demo}
