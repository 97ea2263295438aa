"""`--set stage.field=value`, `--set policy=NAME`: changes to a recipe, checked against its fields."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy

from pydantic import BaseModel, JsonValue, ValidationError

from hemaflow.flows.config.fields import similar_fields
from hemaflow.flows.config.policies import Document, with_policy
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError, nearest
from hemaflow.tasks.core.stage import StageConfig


def change(config: PipelineConfig, changes: Sequence[str]) -> PipelineConfig:
    """Return the config with every change applied in order; values are JSON, or else plain text.

    `policy=NAME` is the layers of an augmentation policy (`flows/config/policies.py`), all at once. Fields of
    the config that no longer have an effect after the changes get their defaults.

    Raises:
        ConfigError: A change names no field or policy, gives a value that the field refuses, or sets a field
            that has no effect.
    """
    document: Document = config.model_dump(mode="json")
    changed: dict[str, str] = {}
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
        changed[".".join(parts)] = text
    groups = [path for path in changed if isinstance(_value(document, path), dict)]
    built = build(reset_without_effect(document, keep=groups))
    conditions = _without_effect(document)
    for path in changed.keys() & conditions.keys():
        raise ConfigError(
            f"{path} has no effect here: it has one only with {conditions[path]}.",
            received=f"--set {changed[path]}",
            where=path,
            remedy=f"Leave {path} out, or change that too: hemaflow fields {path.partition('.')[0]}",
        )
    return built


def reset_without_effect(document: Document, keep: Collection[str] = ()) -> Document:
    """Return the document of a config in which every field without an effect has its default.

    Args:
        document: Stage → its fields; what is missing is left out.
        keep: Groups of fields, such as `train.transfer`, that are left as they are.
    """
    reset = deepcopy(document)
    for path in _without_effect(reset):
        path_of_group, _, name = path.rpartition(".")
        group = _value(reset, path_of_group)
        if path_of_group not in keep and isinstance(group, dict):
            del group[name]
    return reset


def _without_effect(
    document: Mapping[str, object], model: type[BaseModel] = PipelineConfig, prefix: str = ""
) -> dict[str, str]:
    """Return each field of a document that has no effect, with the condition that gives it one."""
    found: dict[str, str] = {}
    defaults = {
        name: info.get_default(call_default_factory=True) for name, info in model.model_fields.items()
    }
    if issubclass(model, StageConfig):
        conditions = model.without_effect({**defaults, **document})
        found = {f"{prefix}{name}": words for name, words in conditions.items() if name in document}
    for name, value in document.items():
        group = defaults.get(name)
        if isinstance(value, dict) and isinstance(group, BaseModel) and f"{prefix}{name}" not in found:
            found |= _without_effect(value, type(group), f"{prefix}{name}.")
    return found


def build(document: Document) -> PipelineConfig:
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


def _assign(document: Document, parts: Sequence[str], value: JsonValue, text: str) -> None:
    """Put the value where the path leads, step by step, so that a wrong step can be named."""
    target: object = document
    for depth, part in enumerate(parts):
        if not isinstance(target, dict) or part not in target:
            known = list(target) if isinstance(target, dict) else []
            level = ".".join(parts[:depth]) or "the config"
            others = nearest(part, known) if known else f"{level} is a value, not a group of fields"
            raise ConfigError(
                f"{level} has no field {part!r}.",
                expected="" if part is parts[-1] and similar_fields(".".join(parts)) else others,
                received=f"--set {text}",
                remedy=_meant(parts),
            )
        if depth == len(parts) - 1:
            target[part] = value
        else:
            target = target[part]


def _value(document: Document, path: str) -> object:
    """Return what lies at a path; the document itself for "", None for a path that does not exist."""
    value: object = document
    for part in path.split(".") if path else ():
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _meant(parts: Sequence[str]) -> str:
    """Return the remedy for a field that does not exist: the fields that may have been meant."""
    similar = similar_fields(".".join(parts))
    listed = "List the fields with their meaning: hemaflow fields"
    return f"Perhaps {' or '.join(similar)} was meant. {listed}" if similar else listed


def _parse(value: str) -> JsonValue:
    try:
        parsed: JsonValue = json.loads(value)
    except json.JSONDecodeError:
        return value
    return parsed
