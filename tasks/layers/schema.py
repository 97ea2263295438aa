"""What the factors of an augmentation layer may be, and the check of a config against it.

The tables of layers are made of these: `tasks/layers/keras_cv_table.py` for copies (keras-cv),
`tasks/layers/online.py` for layers in front of the network (Keras). The check needs neither library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeGuard

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
        kind: The kind of value.
        meaning: Its meaning and unit.
        low: The smallest number allowed.
        high: The largest number allowed.
        required: Whether it has no default.
        choices: The words or integers allowed; empty allows all.
        only_with: Another factor, and its values with which this one has an effect (None is its default);
            None where this one always has an effect.
    """

    kind: Kind
    meaning: str
    low: float = 0.0
    high: float = 1.0
    required: bool = False
    choices: tuple[str | int, ...] = ()
    only_with: tuple[str, tuple[str | None, ...]] | None = None

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

    def accepts(self, value: object) -> bool:
        """Whether a value, as JSON gives it, may be passed to the layer."""
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.choices:
            return not isinstance(value, bool) and value in self.choices
        if self.kind in ("integer", "size"):
            many = (self.kind == "size" and _pair(value)) or (value,)
            return all(isinstance(each, int) and _is_number(each) and self._within(each) for each in many)
        pair = _pair(value)
        if pair and self.kind in ("span", "pair", "margins"):
            inside = all(map(self._within, pair))
            return inside and (self.kind == "margins" or pair[0] <= pair[1])
        if self.kind in ("pair", "choice") or not _is_number(value):
            return False
        return self._within(value) and (self.kind != "span" or value >= 0)

    def _within(self, value: float) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pair(value: object) -> tuple[float, ...]:
    """Return a list of two numbers as a tuple; an empty one for anything else."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        return tuple(value)
    return ()


def check_factors(
    layer: str, factors: Mapping[str, object], known: Mapping[str, Factor], needed: Sequence[str] = ()
) -> None:
    """Raise ValueError unless a layer takes the factors that a config gives it.

    Args:
        layer: Name of the layer.
        factors: The factors that the config gives.
        known: The factors that the layer takes.
        needed: Factors of which at least one must be given.
    """
    for factor, value in factors.items():
        if factor not in known:
            takes = nearest(factor, known) if known else "It takes none."
            raise ValueError(f"{layer} has no factor {factor!r}. {takes}")
        if not known[factor].accepts(value):
            raise ValueError(
                f"{layer}: expected {factor} to be {known[factor].expected}; received {value!r}."
            )
        other, values = known[factor].only_with or ("", ())
        if other and factors.get(other) not in values:
            named = " or ".join(value for value in values if value)
            raise ValueError(
                f"{layer}: {factor} has an effect only with {other}={named}. Leave {factor} out."
            )
    missing = [factor for factor, form in known.items() if form.required and factor not in factors]
    if missing:
        raise ValueError(f"{layer} needs {missing[0]}: {known[missing[0]].expected}.")
    if needed and not set(needed) & set(factors):
        raise ValueError(f"{layer} needs {' or '.join(needed)}: without them it changes nothing.")


class Layer(StageConfig):
    """One layer of a table, with its factors."""

    known: ClassVar[Mapping[str, Mapping[str, Factor]]]
    """Layer → its factors."""
    needs_one: ClassVar[Mapping[str, tuple[str, ...]]]
    """Layer → factors of which at least one must be given: without any the layer changes nothing."""
    kind: ClassVar[str]
    """What a layer of the table is called in errors."""

    name: str
    """Name of the layer, such as RandomFlip."""
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    """Probability that the layer is applied to an image, drawn for each image."""
    factors: dict[str, object] = Field(default_factory=dict)
    """Arguments of the layer, such as {"factor": 0.1}; a range is a list of two; those left out have the
    layer's own defaults."""

    @model_validator(mode="after")
    def _is_of_the_table(self) -> Self:
        if self.name not in self.known:
            raise ValueError(f"There is no {self.kind} {self.name!r}. {nearest(self.name, self.known)}")
        check_factors(self.name, self.factors, self.known[self.name], self.needs_one.get(self.name, ()))
        return self
