"""What a comparison compares: recipes, each with every backbone, and the runs that this asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from flows.run import RunRequest


@dataclass(frozen=True)
class Contender:
    """A recipe, with the changes that make it a contender of its own.

    Attributes:
        name: What its row is called.
        requests: One run for each seed.
    """

    name: str
    requests: tuple[RunRequest, ...]


def contenders(
    recipes: Sequence[str],
    backbones: Sequence[str] = (),
    *,
    seeds: int = 1,
    data: str = "",
    changes: Sequence[str] = (),
    store: str = "",
) -> list[Contender]:
    """Return every recipe with every backbone, or with its own where none is named.

    Raises:
        ConfigError: There is no such recipe, backbone or field: told before anything is trained.
    """
    found = []
    for recipe, backbone in product(recipes, backbones or ("",)):
        own = (*changes, *([f"train.backbone={backbone}"] if backbone else []))
        requests = tuple(
            RunRequest(recipe=recipe, data=data, changes=(*own, f"train.seed={seed}"), store=store)
            for seed in range(seeds)
        )
        for request in requests:
            request.pipeline_config()
        found.append(Contender(f"{recipe}, {backbone}" if backbone else recipe, requests))
    return found
