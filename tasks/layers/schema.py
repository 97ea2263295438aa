"""What a factor of an augmentation layer may be, and the check that a config keeps to it.

The tables of layers are made of these: `tasks/layers/keras_cv_table.py` for copies (keras-cv),
`tasks/layers/online.py` for layers in front of the network (Keras). Neither library is needed to know what it
takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hemaflow.infra.errors import nearest
from hemaflow.tasks.core.stage import StageConfig

Kind = Literal["number", "integer", "size", "span", "pair", "margins", "flag", "choice"]
"""number; integer; size: one or two integers; span: a number or two in order; pair: two in order; margins: a
number or two, below and above; flag: true or false; choice: one of some words."""


@dataclass(frozen=True)
class Factor:
    """What one factor of a layer may be.

    Attributes:
        kind: What sort of value it is.
        meaning: What it stands for, with its unit.
        low: The least that a number may be.
        high: The most that a number may be.
        required: Whether it has no default.
        choices: The words, or the integers, that it may be; any where empty.
    """

    kind: Kind
    meaning: str
    low: float = 0.0
    high: float = 1.0
    required: bool = False
    choices: tuple[str | int, ...] = ()

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        limits = f"{self.low:g}..{self.high:g}" if math.isfinite(self.high) else f"at least {self.low:g}"
        # One number x stands for the span from 0, or from -x, up to x: it is never negative.
        single = limits.replace(f"{self.low:g}", f"{max(self.low, 0):g}", 1)
        words = {
            "number": f"a number, {limits}",
            "integer": f"an integer, {limits}",
            "size": f"one integer or a list of two, {limits}",
            "span": f"a number, {single}, or a list of two in order, {limits}",
            "pair": f"a list of two numbers in order, {limits}",
            "margins": f"a number, {limits}, or a list of two",
            "flag": "true or false",
            "choice": "",
        }[self.kind]
        if self.choices:
            words = "one of " + ", ".join(map(str, self.choices))
        return f"{words} ({self.meaning})"

    def accepts(self, value: Any) -> bool:
        """Whether a value, as JSON gives it, may be passed to the layer."""
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.choices:
            return not isinstance(value, bool) and value in self.choices
        if self.kind in ("integer", "size"):
            many = list(value) if self.kind == "size" and _is_pair(value) else [value]
            return all(isinstance(each, int) and self._within(each) for each in many)
        if _is_pair(value) and self.kind in ("span", "pair", "margins"):
            inside = all(self._within(each) for each in value)
            return inside and (self.kind == "margins" or value[0] <= value[1])
        return (
            self.kind not in ("pair", "choice")
            and self._within(value)
            and (self.kind != "span" or value >= 0)
        )

    def _within(self, value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and self.low <= value <= self.high


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def check_factors(
    layer: str, factors: Mapping[str, Any], known: Mapping[str, Factor], needed: Sequence[str] = ()
) -> None:
    """Raise ValueError unless the factors given to a layer are among those known, and as they must be.

    Args:
        layer: Its name.
        factors: What a config gives it.
        known: What it takes.
        needed: Of these, one at least must be given.
    """
    for factor, value in factors.items():
        if factor not in known:
            takes = nearest(factor, known) if known else "It takes none."
            raise ValueError(f"{layer} has no factor {factor!r}. {takes}")
        if not known[factor].accepts(value):
            raise ValueError(
                f"{layer}: expected {factor} to be {known[factor].expected}; received {value!r}."
            )
    missing = [factor for factor, form in known.items() if form.required and factor not in factors]
    if missing:
        raise ValueError(f"{layer} needs {missing[0]}: {known[missing[0]].expected}.")
    if needed and not set(needed) & set(factors):
        raise ValueError(f"{layer} needs {' or '.join(needed)}: without, it changes nothing.")


class Layer(StageConfig):
    """One layer of a table, with the factors that it is given."""

    known: ClassVar[Mapping[str, Mapping[str, Factor]]]
    """The table: layer → its factors."""
    needs_one: ClassVar[Mapping[str, tuple[str, ...]]]
    """Layer → factors of which one must be given, for without any it changes nothing."""
    kind: ClassVar[str]
    """What a layer of the table is called in errors."""

    name: str
    """The layer, such as RandomFlip."""
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    """Part of the images that the layer is applied to; each is drawn by itself."""
    factors: dict[str, Any] = Field(default_factory=dict)
    """Its arguments, such as {"factor": 0.1}; ranges are lists of two; its own defaults where left out."""

    @model_validator(mode="after")
    def _is_of_the_table(self) -> Self:
        if self.name not in self.known:
            raise ValueError(f"There is no {self.kind} {self.name!r}. {nearest(self.name, self.known)}")
        check_factors(self.name, self.factors, self.known[self.name], self.needs_one.get(self.name, ()))
        return self
