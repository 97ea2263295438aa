"""The command `hemaflow`.

Results go to stdout, everything else to stderr. Exit code 0; 2 for a mistake in what was asked, told in one
message; 1 for a failure; as shells have it, 130 when interrupted from the keyboard and 143 when terminated.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import sys
from typing import Annotated

import typer

from hemaflow.flows.api.console import ConsoleObserver
from hemaflow.flows.api.start import carry_out, carry_out_workflow, retraining_flow
from hemaflow.flows.cli import champion, compare, images, label_errors, lists, servers, store, submission
from hemaflow.flows.cli.options import Changes, Data, Json, StoreUrl, err, escaped, opened, out, table
from hemaflow.flows.config.recipe_file import is_recipe_file, read_recipe, recipe_text
from hemaflow.flows.config.recipes import RECIPES, recipe_named
from hemaflow.flows.config.request import CUSTOM, RunRequest
from hemaflow.flows.config.stages import STAGE_NAMES
from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.engine.open import open_engine
from hemaflow.flows.engine.report import plan_report
from hemaflow.flows.runs.find import find_run, recipe_of
from hemaflow.flows.runs.formatting import duration
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.errors import ConfigError, HemaflowError, nearest
from hemaflow.infra.settings import current_settings
from hemaflow.infra.stat_database import forget_all
from hemaflow.infra.store.base import Store
from hemaflow.tasks.report.notes import note

KEYBOARD_INTERRUPT, TERMINATED = 130, 143
CONSOLE_ENTRIES = {
    "test": "test",
    "test_tta": "test, TTA",
    "test_heavy_mix": "heavy mix",
    "test_heavy_mix_tta": "heavy mix, TTA",
    "test_medmnistc": "MedMNIST-C",
}
"""Entries of the metrics → what the end of a run calls them."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def hemaflow(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Train, judge and package classifiers of blood cell images."""
    if version:
        print(f"hemaflow {importlib.metadata.version('hemaflow')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


RecipeOption = Annotated[str, typer.Option("--recipe", help="A recipe (`hemaflow recipes`) or recipe file.")]
From = Annotated[str, typer.Option("--from", help="Compute this stage and all after it again.")]
Until = Annotated[str, typer.Option("--until", help="Stop after this stage.")]
Only = Annotated[
    str, typer.Option("--only", help="Compute this stage again, and nothing before or after it.")
]
Of = Annotated[
    str,
    typer.Option(
        "--of",
        metavar="RUN",
        help="Go on from this run's results as they are, whatever changed since; "
        "its data, recipe and changes hold where no others are given.",
    ),
]
ConfigOf = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="RUN",
        help="Use the config of this run instead of a recipe, and its data where no other is named; "
        "print it with hemaflow show RUN --config.",
    ),
]

Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash", help="Read all data files again; else those that look unchanged count as unchanged."
    ),
]


@app.command()
def run(
    data: Data = "",
    recipe: RecipeOption = "",
    config_of: ConfigOf = "",
    changes: Changes = None,
    from_stage: From = "",
    until_stage: Until = "",
    only_stage: Only = "",
    of_run: Of = "",
    rehash: Rehash = False,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Run the pipeline: ingest, augment, train, predict, evaluate, submit. What is complete is reused."""
    request = _request(data, recipe, config_of, changes, from_stage, until_stage, only_stage, of_run, store)
    settings = current_settings()
    if rehash:
        forget_all(settings)
    engine = open_engine(request, settings)
    with ConsoleObserver(err) as observer:
        record = carry_out(request, engine, observer, settings)
    _print_run(record, engine.store, as_json)


@app.command()
def retrain(
    data: Data = "",
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe; see `hemaflow recipes`.")] = "laptop",
    changes: Changes = None,
    reference: Annotated[
        str,
        typer.Option(
            help="A source of images that champion and challenger are judged on; the first champion's test "
            "split where left out."
        ),
    ] = "",
    delta: Annotated[float, typer.Option(help="Accuracy that may be lost.", min=0.0, max=1.0)] = 0.005,
    epsilon: Annotated[float, typer.Option(help="Recall that one class may lose.", min=0.0, max=1.0)] = 0.03,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Train on what is new, and make the model champion only if it is no worse than the one that is."""
    from hemaflow.flows.workflows import retraining  # loads numpy

    recipe_named(recipe)
    with ConsoleObserver(err) as observer:
        outcome = carry_out_workflow(
            retraining.retrain,
            retraining_flow,
            observer,
            data=data,
            recipe=recipe,
            changes=tuple(changes or ()),
            reference=reference,
            delta=delta,
            epsilon=epsilon,
            store=store,
        )
    if as_json:
        print(json.dumps({"outcome": outcome.name, "message": outcome.message}, indent=1))
    else:
        out.print(f"{outcome.name}: {outcome.message}", markup=False)


@app.command()
def plan(
    data: Data = "",
    recipe: RecipeOption = "",
    config_of: ConfigOf = "",
    changes: Changes = None,
    from_stage: From = "",
    until_stage: Until = "",
    only_stage: Only = "",
    of_run: Of = "",
    rehash: Rehash = False,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Say what would run, what would be reused, and why. Nothing is written."""
    request = _request(data, recipe, config_of, changes, from_stage, until_stage, only_stage, of_run, store)
    settings = current_settings()
    if rehash:
        forget_all(settings)
    engine = open_engine(request, settings)
    decisions = engine.plan()
    estimates = engine.estimates(decisions, request.recipe)
    report = plan_report(engine, decisions)
    if as_json:
        stages = [
            _decision_document(decision) | {"seconds": estimates.get(decision.stage)}
            for decision in decisions
        ]
        document = {"stages": stages, "report": report._asdict() if report else None}
        print(json.dumps(document, indent=1))
        return
    planned = table("stage", "", "key", "takes", "because")
    for decision in decisions:
        key = decision.inputs.key[:8] if decision.inputs else "…"
        style = "green" if decision.state == "reuse" else "yellow"
        seconds = estimates.get(decision.stage)
        planned.add_row(
            decision.stage,
            f"[{style}]{decision.state}[/]",
            key,
            "" if seconds is None else duration(seconds),
            escaped(decision.reason),
        )
    if report:
        style = "green" if report.state == "reuse" else "yellow"
        key, reason = report.key[:8] or "…", escaped(report.reason)
        planned.add_row("report", f"[{style}]{report.state}[/]", key, "", reason)
    out.print(planned)


@app.command()
def recipes(name: Annotated[str, typer.Argument(help="Show this recipe whole.")] = "") -> None:
    """List the recipes, or print one as a file for --recipe."""
    if name:
        recipe = recipe_named(name)
        print(recipe_text(recipe), end="")
        return
    listed = table(header=False)
    for known in RECIPES:
        listed.add_row(known, recipe_named(known).summary)
    out.print(listed)


app.command()(submission.check)
app.command()(submission.predict)
app.command()(compare.compare)
app.command(name="policies")(compare.list_policies)
app.command(name="backbones")(lists.list_backbones)
app.command(name="fields")(lists.list_fields)
app.command(name="layers")(lists.list_layers)
app.command(name="views")(lists.list_views)
app.command()(label_errors.label_errors)
app.command()(servers.prepare)
app.command()(servers.worker)
app.command(name="runs")(store.list_runs)
app.command()(store.show)
app.command()(store.diff)
app.command()(store.report)
app.command()(images.index)
app.command()(images.findings)
app.command(name="verify")(store.verify_store)
app.command()(store.gc)
app.add_typer(champion.app, name="champion")
app.add_typer(servers.app, name="stack")


def main() -> None:
    """Run the command; turn errors into one message and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)
        if code == KEYBOARD_INTERRUPT:
            err.print("Interrupted. The same command goes on from what is complete.")
        sys.exit(code if isinstance(code, int) else 0)
    except HemaflowError as error:
        err.print(f"[red]{'Error' if error.exit_code == 1 else 'Mistake'}:[/] ", end="")
        err.print(str(error), markup=False)
        sys.exit(error.exit_code)
    except _Terminated:
        err.print("Terminated. The same command goes on from what is complete.")
        sys.exit(TERMINATED)
    except Exception as error:
        show_usage = getattr(error, "show", None)  # click's usage errors
        if show_usage is None:
            raise
        show_usage()
        sys.exit(getattr(error, "exit_code", 2))


class _Terminated(BaseException):
    """SIGTERM came: unwind, so that workers keep their checkpoints and nothing is left running."""


def _terminated(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _request(
    data: str,
    recipe: str,
    config_of: str,
    changes: list[str] | None,
    from_stage: str,
    until_stage: str,
    only_stage: str,
    of_run: str,
    store: str,
) -> RunRequest:
    for option, stage in (("--from", from_stage), ("--until", until_stage), ("--only", only_stage)):
        if stage and stage not in STAGE_NAMES:
            raise ConfigError(
                f"{option} {stage}: there is no such stage.", expected=nearest(stage, STAGE_NAMES)
            )
    if only_stage and (from_stage or until_stage):
        raise ConfigError(
            "--only names the one stage to compute: it cannot go with --from or --until.",
            remedy="Leave out one of them.",
        )
    if config_of and (recipe or of_run):
        raise ConfigError(
            "--config takes all settings from a run: it cannot go with --recipe or --of.",
            remedy="Leave out one of them; change single fields with --set.",
        )
    earlier = find_run(opened(store), of_run) if of_run else None
    if config_of or is_recipe_file(recipe):
        own = recipe_of(find_run(opened(store), config_of)) if config_of else read_recipe(recipe)
        return RunRequest.model_validate(
            {
                "config": own.config,
                "data": data or own.data or (earlier.data if earlier else ""),
                "changes": tuple(changes or ()),
                "from_stage": only_stage or from_stage,
                "until_stage": only_stage or until_stage or "submit",
                "of_run": earlier.run if earlier else "",
                "store": store,
            }
        )
    config = recipe_of(earlier).config if earlier and earlier.recipe == CUSTOM and not recipe else None
    return RunRequest.model_validate(
        {
            "recipe": recipe or (earlier.recipe if earlier and not config else "demo"),
            "config": config,
            "data": data or (earlier.data if earlier else ""),
            "changes": (*(earlier.changes if earlier and not recipe else ()), *(changes or ())),
            "from_stage": only_stage or from_stage,
            "until_stage": only_stage or until_stage or "submit",
            "of_run": earlier.run if earlier else "",
            "store": store,
        }
    )


def _print_run(record: RunRecord, store: Store, as_json: bool) -> None:
    outputs = {name: f"{store.url}/{location}" for name, location in record.outputs.items()}
    if as_json:
        document = {
            "run": record.run,
            "status": record.status,
            "stages": [
                stage.model_dump(include={"stage", "key", "state", "reason", "seconds"})
                for stage in record.stages
            ],
            "metrics": {
                **{entry: {} for entry in ("val", "val_tta", "test", "test_tta")},
                **record.metrics,
            },
            "submission": outputs.get("submission"),
            "report": outputs.get("report"),
        }
        print(json.dumps(document, indent=1))
        return
    out.print(f"run        {record.run}  {record.status} in {record.seconds:.1f} s")
    measured = record.measured.measured()
    for entry, label in CONSOLE_ENTRIES.items():
        if metrics := measured.get(entry):
            low, high = metrics.intervals["accuracy"]
            out.print(
                f"{label:<10} accuracy {metrics.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})"
                + (f"; worst {metrics.worst_corruption}" if metrics.worst_corruption else ""),
                markup=False,
            )
    if overlap := note(record.measured.data_overlap, "test"):
        out.print(overlap, markup=False)
    for name, location in outputs.items():
        out.print(f"{name:<10} {location}", markup=False)


def _decision_document(decision: Decision) -> dict[str, str | float | None]:
    return {
        "stage": decision.stage,
        "key": decision.inputs.key if decision.inputs else None,
        "state": decision.state,
        "reason": decision.reason,
    }
