"""The commands about the model in production: `hemaflow champion show|history|promote|rollback`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hemaflow.flows.cli.options import Json, StoreUrl, escaped, opened, out, table
from hemaflow.flows.runs.champion import Champion, Entry, current, require_champion
from hemaflow.flows.runs.champion import promote as promote_run
from hemaflow.flows.runs.champion import rollback as roll_back
from hemaflow.flows.runs.find import find_run
from hemaflow.infra.errors import ConfigError

app = typer.Typer(help="The champion: the run whose model is in production.")


@app.callback(invoke_without_command=True)
def champion(context: typer.Context, store: StoreUrl = "", as_json: Json = False) -> None:
    """The champion: the run whose model is in production. Shown where no command is named."""
    if context.invoked_subcommand is None:
        show(store, as_json)
        return
    sources = {name: context.get_parameter_source(name) for name in ("store", "as_json")}
    if any(source is not None and source.name == "COMMANDLINE" for source in sources.values()):
        raise ConfigError(
            "--store and --json belong after the command.",
            expected=f"hemaflow champion {context.invoked_subcommand} --store … --json",
        )


@app.command()
def show(store: StoreUrl = "", as_json: Json = False) -> None:
    """Show the champion."""
    found = opened(store)
    now = require_champion(found)
    if as_json:
        _print_json(now)
        return
    _print(now)
    for name, entry in find_run(found, now.run).measured.measured().items():
        out.print(f"{name:<14} accuracy {entry.accuracy:.4f}")


@app.command()
def history(store: StoreUrl = "", as_json: Json = False) -> None:
    """List the champion and those before it, the newest first."""
    now = require_champion(opened(store))
    entries = [now.entry(), *now.history]
    if as_json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))
        return
    listed = table("run", "promoted", "", "because")
    for place, entry in enumerate(entries):
        state = "champion" if place == 0 else "rolled back" if entry.rolled_back else ""
        listed.add_row(entry.run, entry.promoted, state, escaped(entry.reason))
    out.print(listed)


@app.command()
def promote(
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the champion.")] = "by hand",
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Make a run the champion, whatever it was judged to be. Its results are checked first."""
    found = opened(store)
    now = current(found)
    _print(promote_run(found, find_run(found, run), reason, now.tag if now else ""), as_json)


@app.command()
def rollback(store: StoreUrl = "", as_json: Json = False) -> None:
    """Make the champion before this one champion again."""
    _print(roll_back(opened(store)), as_json)


def _print(now: Champion, as_json: bool = False) -> None:
    if as_json:
        _print_json(now)
        return
    out.print(f"[bold]champion[/] run {now.run}, promoted {now.promoted}")
    facts = table(header=False)
    facts.add_row("because", escaped(now.reason))
    if now.restored:
        facts.add_row("restored", now.restored)
    facts.add_row("reference", f"ingest {now.reference[:12]}" if now.reference else "none")
    if now.history:
        facts.add_row("before it", _named(now.history[0]))
    out.print(facts)


def _named(entry: Entry) -> str:
    return f"run {entry.run}" + (", rolled back" if entry.rolled_back else "")


def _print_json(now: Champion) -> None:
    print(json.dumps(now.model_dump(mode="json"), indent=1))
