"""The fields of a config: every field of every stage with its type, range, default and meaning.

The list is read from the config models themselves, which `hemaflow fields` and the errors of `--set` share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.tasks.core.stage import OnlyWith


class Field(NamedTuple):
    """One field of a config.

    Attributes:
        path: How `--set` names it, such as `train.batch_size`.
        type: Its type, with the choices of one that has some.
        range: The values it may have, such as `at least 0, at most 1`, and the condition under which it
            has an effect; "" where any value of the type is allowed.
        default: Its default, as `--set` takes it.
        meaning: What it means.
    """

    path: str
    type: str
    range: str
    default: object
    meaning: str


def fields(stage: str = "") -> list[Field]:
    """Return the fields of a stage, or of all stages, in the order of the config.

    Example:
        >>> [field.path for field in fields("submit")][0]
        'submit.tta'
    """
    return [
        field for field in _fields(PipelineConfig, "") if field.path.startswith(f"{stage}." if stage else "")
    ]


def similar_fields(name: str) -> list[str]:
    """Return the full names of fields that somebody who typed `name` may have meant.

    Args:
        name: A field without its stage or group, or with a wrong one: `epochs`, `train.epochs`.

    Example:
        >>> similar_fields("train.epochs")
        ['train.transfer.epochs', 'train.fine_tuning.epochs']
    """
    *groups, last = name.split(".")
    found = [field.path for field in fields() if field.path.rsplit(".", 1)[-1] == last]
    within = [path for path in found if groups and path.startswith(f"{groups[0]}.")]
    return within or found


def _fields(model: type[BaseModel], prefix: str) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            default = info.get_default(call_default_factory=True)
            meaning = " ".join((info.description or "").split())
            yield Field(f"{prefix}{name}", _type(kind), _range(info), _json(default), meaning)


def _type(kind: object) -> str:
    """Return a type as people write it: `int`, `adam | lion`, `list of int`."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"list of {_type(get_args(kind)[0])}"
    if hasattr(kind, "__metadata__"):
        return _type(get_args(kind)[0])
    parts = [part for part in get_args(kind) if part is not type(None)]
    if parts:
        return " or ".join(map(_type, parts))
    return getattr(kind, "__name__", str(kind))


def _range(info: FieldInfo) -> str:
    """Return the bounds of a number, and when the field has an effect: `at least 0, only with loss=focal`."""
    low = high = condition = ""
    for bound in info.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                low = f"at least {value}"
            case annotated_types.Gt(gt=value):
                low = f"above {value}"
            case annotated_types.Le(le=value):
                high = f"at most {value}"
            case annotated_types.Lt(lt=value):
                high = f"below {value}"
            case annotated_types.Interval(ge=value, le=other) if value is not None and other is not None:
                low, high = f"at least {value}", f"at most {other}"
            case OnlyWith():
                condition = f"only with {bound}"
    return ", ".join(filter(None, (low, high, condition)))


def _json(value: object) -> object:
    """Return a default as a JSON value."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_json(each) for each in value] if isinstance(value, tuple) else value
