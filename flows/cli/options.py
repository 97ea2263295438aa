"""What all commands share: where they write, and the options that many of them have."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import open_store, store_forms
from hemaflow.tasks.sources.registry import source_forms

# Does not wrap lines when stdout is not a terminal.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[
    str,
    typer.Option("--data", help=f"Source of the images: {source_forms()}."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the recipe: stage.field=value. May be repeated."),
]
StoreUrl = Annotated[
    str,
    typer.Option("--store", help=f"The object store: {store_forms()}.", envvar="HEMAFLOW_STORE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
RunId = Annotated[
    str, typer.Argument(help="The run's id, or its beginning or end; the newest where left out.")
]


def opened(url: str) -> Store:
    """Return the store that --store names, or that of the settings."""
    return open_store(url or current_settings().store)


def table(*headings: str, header: bool = True) -> Table:
    """Return an empty table in the style of all commands."""
    made = Table(box=None, pad_edge=False, show_header=header)
    for heading in headings:
        made.add_column(heading)
    return made


def escaped(text: str) -> str:
    """Return a text that rich shows as it is."""
    return text.replace("[", r"\[")
