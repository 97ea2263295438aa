"""Commands for servers: `stack` (a local S3 and Prefect server), `prepare` and `worker`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hemaflow.flows.cli.options import out
from hemaflow.infra.deploy.stack import Stack
from hemaflow.infra.errors import ConfigError


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
    from hemaflow.flows.server.pool_worker import serve

    serve(pool, name=name, limit=limit, template=template)


def prepare_server(url: str, webhook_url: str = "") -> list[str]:
    """Make what hemaflow needs of the Prefect server at that address; return what there is now."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from hemaflow.flows.server.preparation import prepare

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


app = typer.Typer(
    help="An S3 server and a Prefect server on this machine alone, as production has them.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Option("--folder", help="Where the servers' data, logs and credentials are kept.")
]
DEFAULT_FOLDER = Path(".hemaflow-stack")


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    s3_port: Annotated[int, typer.Option(help="Where the S3 server listens.")] = 8333,
    prefect_port: Annotated[int, typer.Option(help="Where the Prefect server listens.")] = 4200,
) -> None:
    """Start what does not run."""
    stack = Stack(folder)
    stack.up(s3_port, prefect_port)
    prepare_server(stack.environment()["PREFECT_API_URL"])
    status(folder)
    out.print(f'\nTo use them: eval "$(hemaflow stack env{_option(folder)})"')


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """End what runs; data stays."""
    Stack(folder).down()


@app.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """Say what runs. Exit code 3 where something does not."""
    services = Stack(folder).status()
    for service in services:
        out.print(f"{service.name:<8} {service.url}  {'running' if service.pid else 'stopped'}")
    if not services or not all(service.pid for service in services):
        if not services:
            out.print("stopped")
        raise typer.Exit(3)


@app.command()
def env(folder: Folder = DEFAULT_FOLDER) -> None:
    """Print the variables by which hemaflow, boto3 and Prefect find the servers, for a shell."""
    for name, value in Stack(folder).environment().items():
        print(f"export {name}={value}")


def _option(folder: Path) -> str:
    return "" if folder == DEFAULT_FOLDER else f" --folder {folder}"
