"""The functions of the Python API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hemaflow.flows.api.console import observer_for
from hemaflow.flows.api.run import Run
from hemaflow.flows.api.start import carry_out, carry_out_workflow, comparison_flow
from hemaflow.flows.config.recipes import RECIPES, Recipe, recipe_named
from hemaflow.flows.config.request import RunRequest
from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.runs.find import find_run
from hemaflow.flows.runs.leaderboard import Member
from hemaflow.flows.runs.record import runs as run_records
from hemaflow.infra.settings import current_settings
from hemaflow.infra.stat_database import forget_all
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store as open_store_at
from hemaflow.tasks.model.backbones import BACKBONES, Backbone
from hemaflow.tasks.sources.base import Source
from hemaflow.tasks.sources.registry import open_source as open_source_named

Changes = Mapping[str, object]


def run(
    data: str | Path = "",
    recipe: str = "demo",
    set: Changes | None = None,
    store: str | Path = "",
    *,
    from_stage: str = "",
    until_stage: str = "submit",
    of_run: str = "",
    rehash: bool = False,
    progress: bool = True,
) -> Run:
    """Run the pipeline and return the run; what is complete is reused.

    Works from a plain script, without a `__main__` guard, and in a notebook.

    Args:
        data: A folder, .zip, .npz or s3://bucket/prefix, or a name such as `sample`; if empty, the recipe's.
        recipe: The recipe; see `recipes()`.
        set: Fields of the recipe to change: `{"train.batch_size": 32}`.
        store: The object store; that of HEMAFLOW_STORE if empty.
        from_stage: Compute this stage and all after it again.
        until_stage: Stop after this stage.
        of_run: Use this run's results as they are.
        rehash: Read all data files again; else those that look unchanged count as unchanged.
        progress: Show the progress, in a notebook or on stderr.

    Raises:
        UserError: A mistake in what was asked; its text says what to do.
        StageError: A stage could not do its work.

    Example:
        >>> import hemaflow
        >>> quick = {"train.fine_tuning.epochs": 1, "evaluate.robustness": "none"}
        >>> run = hemaflow.run("sample", recipe="demo", set=quick, progress=False)
        >>> run.metrics.test.num_examples, run.submission.name
        (72, 'submission.zip')
    """
    request = _request(data, recipe, set, store, from_stage, until_stage, of_run)
    settings = current_settings()
    if rehash:
        forget_all(settings)
    engine = open_engine(request, settings)
    with observer_for(sys.stderr if progress else None) as observer:
        record = carry_out(request, engine, observer, settings)
    return Run(record, engine.store)


def plan(
    data: str | Path = "",
    recipe: str = "demo",
    set: Changes | None = None,
    store: str | Path = "",
    *,
    from_stage: str = "",
    until_stage: str = "submit",
    of_run: str = "",
    rehash: bool = False,
) -> list[Decision]:
    """Return what `run` would do with each stage, and why; nothing is written.

    Example:
        >>> import hemaflow, tempfile
        >>> empty = tempfile.mkdtemp()
        >>> [decision.state for decision in hemaflow.plan("sample", store=empty)]
        ['run', 'run', 'run', 'run', 'run', 'run']
    """
    request = _request(data, recipe, set, store, from_stage, until_stage, of_run)
    settings = current_settings()
    if rehash:
        forget_all(settings)
    return open_engine(request, settings).plan()


def compare(
    recipes: Sequence[str] = ("demo",),
    data: str | Path = "",
    set: Changes | None = None,
    store: str | Path = "",
    *,
    backbones: Sequence[str] = (),
    policies: Sequence[str] = (),
    vary: Mapping[str, Sequence[object]] | None = None,
    seeds: int = 1,
    ensembles: bool = False,
    equal_steps: bool = False,
    progress: bool = True,
) -> list[Member]:
    """Train several recipes on the same data and return the leaderboard, the best first.

    Args:
        recipes: The recipes.
        data: See `run`.
        set: Fields to change in every recipe.
        store: See `run`.
        backbones: Backbones that every recipe is trained with, instead of its own.
        policies: Augmentation policies that every recipe is trained with.
        vary: Field → values that every recipe is trained with: `{"augment.copies": [1, 2, 4]}`.
        seeds: Number of random seeds.
        ensembles: Also average the models of all seeds.
        equal_steps: Give every policy the same number of optimizer steps.
        progress: Show the progress.

    Example:
        >>> import hemaflow
        >>> quick = {"train.fine_tuning.epochs": 1, "evaluate.robustness": "none"}
        >>> [best] = hemaflow.compare(["demo"], "sample", set=quick, progress=False)
        >>> best.name, best.num_parameters
        ('demo', 488888)
    """
    from hemaflow.flows.workflows import comparison  # loads numpy

    with observer_for(sys.stderr if progress else None) as observer:
        return carry_out_workflow(
            comparison.compare,
            comparison_flow,
            observer,
            recipes=tuple(recipes),
            backbones=tuple(backbones),
            policies=tuple(policies),
            vary=tuple(f"{field}={','.join(map(_text, values))}" for field, values in (vary or {}).items()),
            seeds=seeds,
            ensembles=ensembles,
            equal_steps=equal_steps,
            data=str(data),
            changes=_changes(set),
            store=str(store),
        )


def runs(store: str | Path = "") -> list[Run]:
    """Return all runs in a store, the oldest first.

    Example:
        >>> import hemaflow, tempfile
        >>> hemaflow.runs(tempfile.mkdtemp())
        []
    """
    opened = open_store(store)
    return [Run(record, opened) for record in run_records(opened)]


def open_run(run: str = "", store: str | Path = "") -> Run:
    """Return a run by its id, the beginning or end of it, or `champion`; the newest if empty.

    Raises:
        UserError: There is no such run, or more than one.

    Example:
        >>> import hemaflow
        >>> hemaflow.open_run().status
        'completed'
    """
    opened = open_store(store)
    return Run(find_run(opened, run), opened)


def recipes() -> dict[str, Recipe]:
    """Return the recipes by name, each with its summary, description, data and config.

    Example:
        >>> import hemaflow
        >>> hemaflow.recipes()["demo"].config.train.backbone
        'cnn'
    """
    return {name: recipe_named(name) for name in RECIPES}


def backbones() -> dict[str, Backbone]:
    """Return the backbones by name.

    Example:
        >>> import hemaflow
        >>> "efficientnetv2-s" in hemaflow.backbones()
        True
    """
    return dict(BACKBONES)


def open_source(data: str | Path) -> Source:
    """Return the data source that a path or name stands for. Use it as a context manager.

    Raises:
        DataError: There is none, or it holds nothing to learn from.

    Example:
        >>> import hemaflow
        >>> with hemaflow.open_source("sample") as source:
        ...     len(source.scan().items)
        480
    """
    return open_source_named(str(data), current_settings())


def open_store(store: str | Path = "") -> Store:
    """Return the object store at a folder or s3://bucket/prefix; that of HEMAFLOW_STORE if empty.

    Example:
        >>> import hemaflow, tempfile
        >>> list(hemaflow.open_store(tempfile.mkdtemp()).list(""))
        []
    """
    return open_store_at(str(store) or current_settings().store)


def _request(
    data: str | Path,
    recipe: str,
    changes: Changes | None,
    store: str | Path,
    from_stage: str,
    until_stage: str,
    of_run: str,
) -> RunRequest:
    recipe_named(recipe)
    return RunRequest.model_validate(
        {
            "data": str(data),
            "recipe": recipe,
            "changes": _changes(changes),
            "store": str(store),
            "from_stage": from_stage,
            "until_stage": until_stage,
            "of_run": of_run,
        }
    )


def _changes(changes: Changes | None) -> tuple[str, ...]:
    """Return changes as the command's `--set` takes them."""
    return tuple(f"{field}={_text(value)}" for field, value in (changes or {}).items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
