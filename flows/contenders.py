"""What a comparison compares: recipes, each with every backbone and policy, and the runs that it takes."""

from __future__ import annotations

import json
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

    def averaging(self, runs: Sequence[str]) -> Contender:
        """Return the ensemble of the models of its runs, as a contender of its own."""
        first = self.requests[0]
        members = json.dumps([f"run:{run}" for run in runs])
        request = first.model_copy(update={"changes": (*first.changes, f"train.ensemble_of={members}")})
        return Contender(f"{self.name}, ensemble of {len(runs)}", (request,))


def contenders(
    recipes: Sequence[str],
    backbones: Sequence[str] = (),
    policies: Sequence[str] = (),
    *,
    seeds: int = 1,
    data: str = "",
    changes: Sequence[str] = (),
    store: str = "",
) -> list[Contender]:
    """Return every recipe with every backbone and augmentation policy, or its own where none is named.

    Raises:
        ConfigError: There is no such recipe, backbone, policy or field: told before anything is trained.
    """
    found = []
    for recipe, backbone, policy in product(recipes, backbones or ("",), policies or ("",)):
        varied = {"train.backbone": backbone, "policy": policy}
        own = (*changes, *(f"{field}={value}" for field, value in varied.items() if value))
        requests = tuple(
            RunRequest(recipe=recipe, data=data, changes=(*own, f"train.seed={seed}"), store=store)
            for seed in range(seeds)
        )
        for request in requests:
            request.pipeline_config()
        found.append(Contender(", ".join(filter(None, (recipe, backbone, policy))), requests))
    return found
