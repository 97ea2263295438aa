"""`--set stage.field=value`, `--set policy=NAME`: changes to a recipe, checked against its fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from hemaflow.flows.config.fields import similar_fields
from hemaflow.flows.config.policies import with_policy
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError, nearest


def change(config: PipelineConfig, changes: Sequence[str]) -> PipelineConfig:
    """Return the config with every change applied in order; values are JSON, or else plain text.

    `policy=NAME` is the layers of an augmentation policy (`flows/config/policies.py`), all at once.

    Raises:
        ConfigError: A change names no field or policy, or gives a value that the field refuses.
    """
    document = config.model_dump(mode="json")
    for text in changes:
        path, separator, value = text.partition("=")
        parts = path.strip().split(".")
        if parts == ["policy"]:
            document = with_policy(document, value.strip())
            continue
        if not separator or len(parts) < 2:
            raise ConfigError(
                "A change cannot be read.",
                expected="--set stage.field=value, such as --set train.batch_size=32",
                received=f"--set {text}",
                remedy=_meant(parts),
            )
        _assign(document, parts, _parse(value), text)
    return build(document)


def build(document: dict[str, Any]) -> PipelineConfig:
    """Return the config that a document describes. Raises ConfigError."""
    try:
        return PipelineConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        received = first["input"]
        raise ConfigError(
            f"The config is not valid: {first['msg'].removeprefix('Value error, ')}",
            received="" if isinstance(received, dict | BaseModel) else f"{where}={received!r}",
            where=where,
            remedy="List the fields with their types and ranges: hemaflow fields",
        ) from None


def _assign(document: dict[str, Any], parts: Sequence[str], value: Any, text: str) -> None:
    """Put the value where the path leads, step by step, so that a wrong step can be named."""
    target: Any = document
    for depth, part in enumerate(parts):
        if not isinstance(target, dict) or part not in target:
            known = list(target) if isinstance(target, dict) else []
            level = ".".join(parts[:depth]) or "the config"
            raise ConfigError(
                f"{level} has no field {part!r}.",
                expected=nearest(part, known) if known else f"{level} is a value, not a group of fields",
                received=f"--set {text}",
                remedy=_meant(parts),
            )
        if depth == len(parts) - 1:
            target[part] = value
        else:
            target = target[part]


def _meant(parts: Sequence[str]) -> str:
    """Return the remedy for a field that does not exist: the fields that may have been meant."""
    similar = similar_fields(".".join(parts))
    listed = "List the fields with their meaning: hemaflow fields"
    return f"Perhaps {' or '.join(similar)} was meant. {listed}" if similar else listed


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
