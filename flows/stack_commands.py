"""The commands about the servers of this machine: `hemaflow stack up|down|status|env`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.server_commands import prepare_server
from flows.terminal import out
from infra.stack import Stack

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
