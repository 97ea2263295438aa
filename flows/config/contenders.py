"""What a comparison compares: recipes, each with every backbone and policy, and the runs that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from hemaflow.flows.config.recipes import recipe_named
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.infra.errors import ConfigError

SEED = "train.seed"
"""What makes the runs of one contender differ."""


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
        # No other field of train has an effect in an ensemble.
        kept = (text for text in first.changes if not text.strip().startswith("train."))
        request = first.model_copy(update={"changes": (*kept, f"train.ensemble_of={members}")})
        return Contender(f"{self.name}, ensemble of {len(runs)}", (request,))


def contenders(
    recipes: Sequence[str],
    backbones: Sequence[str] = (),
    policies: Sequence[str] = (),
    *,
    vary: Sequence[str] = (),
    seeds: int = 1,
    ensembles: bool = False,
    equal_steps: bool = False,
    data: str = "",
    changes: Sequence[str] = (),
    store: str = "",
) -> list[Contender]:
    """Return every recipe with every backbone and augmentation policy, or its own where none is named.

    Each of `vary` is `stage.field=A,B,C` or `stage.field=[…]`: a field with the values that it is given.
    Every combination is a contender. Where steps are to be equal, a policy that makes more copies than the
    recipe has fewer epochs for it, and one that makes fewer has more, so that each is trained on as many
    images as whole epochs allow. `changes` come after the policy; `ensembles` is only checked here.

    Raises:
        ConfigError: There is no such recipe, backbone, policy or field, the recipes would be trained on
            different data, or what was asked for would have no effect: told before anything is trained.
    """
    _check_effects(backbones, policies, vary, changes, seeds, ensembles, equal_steps)
    sources = {recipe_named(recipe).data for recipe in recipes}
    if not data and len(sources) > 1:
        raise ConfigError(
            "These recipes use different data where none is named: their figures could not be compared.",
            received=", ".join(sorted(sources)),
            remedy="Name the data for all of them with --data.",
        )
    found = []
    grid = product(recipes, backbones or ("",), policies or ("",), *map(_variants, vary))
    for recipe, backbone, policy, *varied in grid:
        named = {"train.backbone": backbone, "policy": policy}
        # What was said field by field counts, whatever a policy would make of it.
        own = (*(f"{field}={value}" for field, value in named.items() if value), *changes, *varied)
        if equal_steps:
            plain = RunRequest(recipe=recipe, data=data, changes=tuple(changes), store=store)
            changed = plain.model_copy(update={"changes": own})
            own = (*own, *_as_many_steps(plain.pipeline_config(), changed.pipeline_config()))
        requests = tuple(
            RunRequest(recipe=recipe, data=data, changes=(*own, f"{SEED}={seed}"), store=store)
            for seed in range(seeds)
        )
        for request in requests:
            request.pipeline_config()
        name = ", ".join(filter(None, (recipe, backbone, policy, *varied)))
        found.append(Contender(name, requests))
    return found


def _variants(text: str) -> list[str]:
    """Return the changes that give a field its values: `a.b=1,2` is `a.b=1` and `a.b=2`."""
    field, _, values = text.partition("=")
    if field.strip() == SEED:
        raise _seeds_are_given("--vary")
    try:
        parsed = json.loads(values)
    except json.JSONDecodeError:
        parsed = None
    if isinstance(parsed, list):
        variants = [value if isinstance(value, str) else json.dumps(value) for value in parsed]
    else:
        variants = [value.strip() for value in values.split(",") if value.strip()]
    if not variants:
        raise ConfigError(
            "A field that is to vary has no values.",
            expected="--vary stage.field=A,B,C, such as --vary train.batch_size=32,64",
            received=f"--vary {text}",
        )
    return [f"{field}={value}" for value in variants]


def _check_effects(
    backbones: Sequence[str],
    policies: Sequence[str],
    vary: Sequence[str],
    changes: Sequence[str],
    seeds: int,
    ensembles: bool,
    equal_steps: bool,
) -> None:
    """Raise ConfigError for what one option would silently undo of another."""
    given = [change.partition("=")[0].strip() for change in changes]
    if SEED in given:
        raise _seeds_are_given("--set")
    varied = {field.partition("=")[0].strip(): "--vary" for field in vary}
    varied |= {"train.backbone": "--backbones"} if backbones else {}
    varied |= {"policy": "--policies"} if policies else {}
    for field in given:
        if field in varied:
            raise ConfigError(
                f"{field} is given twice.",
                received=f"--set {field}=… and {varied[field]}",
                remedy="Leave out one of them.",
            )
    if ensembles and seeds == 1:
        raise ConfigError(
            "There is nothing to average: an ensemble is made of the models of several seeds.",
            received="--ensembles with one seed",
            remedy="Say how many with --seeds 3, or leave out --ensembles.",
        )
    if equal_steps and not policies and not any(field.startswith("augment.") for field in varied):
        raise ConfigError(
            "The steps are equal already: nothing that is compared makes more or fewer copies.",
            received="--equal-steps without --policies, and without --vary augment.…",
            remedy="Leave out --equal-steps.",
        )


def _seeds_are_given(option: str) -> ConfigError:
    return ConfigError(
        f"{SEED} cannot be given: each contender is trained with the same seeds, from 0 on.",
        received=f"{option} {SEED}=…",
        remedy="Say how many with --seeds; the leaderboard shows the interval over them.",
    )


def _as_many_steps(plain: PipelineConfig, changed: PipelineConfig) -> list[str]:
    """Return what gives the changed config the steps of the plain one, its warm-up's too."""
    ratio = plain.augment.records_per_image / changed.augment.records_per_image
    if ratio == 1.0:
        return []
    epochs = {
        "transfer": changed.train.transfer.epochs,
        "fine_tuning": changed.train.fine_tuning.epochs,
    }
    more = [f"train.{phase}.epochs={max(1, round(ratio * n))}" for phase, n in epochs.items() if n]
    if changed.train.schedule == "cosine":
        more.append(f"train.warmup_epochs={ratio * changed.train.warmup_epochs:.6g}")
    return more
