"""The commands `hemaflow compare` and `hemaflow policies`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hemaflow.flows.api.console import ConsoleObserver
from hemaflow.flows.api.start import carry_out_workflow, comparison_flow
from hemaflow.flows.cli.options import Changes, Data, Json, StoreUrl, err, out, table
from hemaflow.flows.config.contenders import contenders
from hemaflow.flows.config.policies import POLICIES
from hemaflow.flows.runs.leaderboard import HEADINGS, Member, plot, rows
from hemaflow.infra.errors import ConfigError


def compare(
    recipes: Annotated[str, typer.Option(help="Recipes, divided by commas.")] = "demo",
    backbones: Annotated[
        str,
        typer.Option(
            help="Backbones that each recipe is trained with, divided by commas; its own if left out."
        ),
    ] = "",
    policies: Annotated[
        str, typer.Option(help="Augmentation policies, divided by commas, instead of each recipe's layers.")
    ] = "",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="A field and its values, every one: stage.field=A,B,C. Can be given several times."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds each is trained with.", min=1, max=20)] = 1,
    ensembles: Annotated[
        bool, typer.Option("--ensembles", help="With several seeds, the mean of each one's models too.")
    ] = False,
    equal_steps: Annotated[
        bool,
        typer.Option(
            "--equal-steps", help="Fewer epochs for a policy with more copies: as many steps for each."
        ),
    ] = False,
    data: Data = "",
    changes: Changes = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write the plot to this file, a PNG.")
    ] = None,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Train several recipes on the same data, and rank them: clean, spoiled, size, speed."""
    asked: dict[str, Any] = {
        "recipes": _split(recipes),
        "backbones": _split(backbones),
        "policies": _split(policies),
        "vary": tuple(vary or ()),
        "seeds": seeds,
        "ensembles": ensembles,
        "equal_steps": equal_steps,
        "data": data,
        "changes": tuple(changes or ()),
        "store": store,
    }
    if not contenders(**asked):
        raise ConfigError("There is nothing to compare.", remedy="Name recipes: --recipes cnn,laptop")
    if plot_file and not plot_file.absolute().parent.is_dir():
        raise ConfigError(
            "The plot cannot be written: there is no such folder.",
            received=f"--plot {plot_file}",
            remedy="Make the folder first, or name another file.",
        )
    from hemaflow.flows.workflows import comparison  # loads numpy

    with ConsoleObserver(err) as observer:
        ranked = carry_out_workflow(comparison.compare, comparison_flow, observer, **asked)
    if as_json:
        print(json.dumps([member.model_dump(mode="json") for member in ranked], indent=1))
    else:
        out.print(listing(ranked))
    if plot_file:
        plot_file.write_bytes(plot(ranked))
        err.print(f"plot       {plot_file}", markup=False)


def list_policies() -> None:
    """List the augmentation policies: layers that any recipe can be given, --set policy=NAME."""
    listed = table(header=False)
    for name, policy in POLICIES.items():
        listed.add_row(name, policy.summary)
    out.print(listed)


def _split(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def listing(members: Sequence[Member]) -> Table:
    """Return the table for a terminal, numbered from the best on."""
    listed = table("", *HEADINGS)
    for place, cells in enumerate(rows(members), start=1):
        listed.add_row(str(place), *cells)
    return listed
