"""The commands about a Prefect server: prepare, worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.terminal import out
from infra.errors import ConfigError


def prepare(
    webhook: Annotated[
        str, typer.Option(help="Where to POST what ends failed, crashed or not promoted.", metavar="URL")
    ] = "",
) -> None:
    """Make what hemaflow needs of the Prefect server of PREFECT_API_URL: work pool, slot, automations."""
    for line in prepare_server(require_server("prepare"), webhook):
        out.print(line, markup=False)


def worker(
    pool: Annotated[str, typer.Option(help="The process work pool; made where it is absent.")] = "hemaflow",
    name: Annotated[str, typer.Option(help="What the worker is called.")] = "",
    limit: Annotated[int, typer.Option(help="How many runs at once; 0 for any number.", min=0)] = 0,
    template: Annotated[
        Path | None,
        typer.Option(
            help="A base job template that the pool is made with.", envvar="HEMAFLOW_PROCESS_TEMPLATE"
        ),
    ] = None,
) -> None:
    """Take up the runs of a Prefect work pool. Ended by SIGTERM, it has them keep their checkpoints."""
    require_server("take runs from")
    from flows.worker import serve

    serve(pool, name=name, limit=limit, template=template)


def prepare_server(url: str, webhook_url: str = "") -> list[str]:
    """Make what hemaflow needs of the Prefect server at that address; return what there is now."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.preparation import prepare

    with temporary_settings({PREFECT_API_URL: url}):
        return prepare(webhook_url)


def require_server(purpose: str) -> str:
    """Return the address of the Prefect server that was set up. Raises ConfigError where none was."""
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        raise ConfigError(
            f"There is no Prefect server to {purpose}.",
            expected="its address in PREFECT_API_URL, such as http://127.0.0.1:4200/api",
            remedy='Set it, or start one of your own: hemaflow stack up; eval "$(hemaflow stack env)"',
        )
    return url
