"""The commands about what a store holds: runs, show, diff, report, verify, gc."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import typer
from pydantic import JsonValue

from hemaflow.flows.cli.options import Json, RunId, StoreUrl, escaped, opened, out, table
from hemaflow.flows.config.recipe_file import recipe_text
from hemaflow.flows.engine.report import report_of
from hemaflow.flows.runs.find import find_run, recipe_of
from hemaflow.flows.runs.formatting import duration, size
from hemaflow.flows.runs.lineage import Lineage, difference, digests
from hemaflow.flows.runs.record import RunRecord, runs
from hemaflow.flows.runs.upkeep import collect_garbage, verify
from hemaflow.infra.errors import ConfigError, ObjectAltered, UserError
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import current_settings
from hemaflow.infra.store.base import file_sha256

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def list_runs(store: StoreUrl = "", as_json: Json = False) -> None:
    """List the runs of a store, the oldest first."""
    records = runs(opened(store))
    if as_json:
        print(json.dumps([record.model_dump(mode="json") for record in records], indent=1))
        return
    listed = table("run", "status", "recipe", "data", "seconds", "ran", "test accuracy")
    for record in records:
        ran = ", ".join(stage.stage for stage in record.stages if stage.state == "ran") or "nothing"
        accuracy = getattr(record.measured.test_tta, "accuracy", None)
        listed.add_row(
            record.run,
            record.status,
            record.recipe,
            escaped(record.data),
            f"{record.seconds:.1f}",
            ran,
            "" if accuracy is None else f"{accuracy:.4f}",
        )
    out.print(listed)


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[RUN|KEY|FILE]",
            help="A run's id or its beginning or end, the beginning of a stage key, or a local file; "
            "the newest run where left out.",
        ),
    ] = "",
    config: Annotated[
        bool, typer.Option("--config", help="Print the config of a run as a file for --recipe.")
    ] = False,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Show a run, a result or a file: what made it, and what used it."""
    if config:
        print(recipe_text(recipe_of(find_run(opened(store), what))), end="")
        return
    lineage = Lineage.read(opened(store))
    if what and Path(what).is_file():
        results = _results_with(lineage, Path(what))
        document: object = {"parts": results}
    elif len(keyed := lineage.with_key(what)) == 1:
        results = [_result_document(lineage, keyed[0])]
        document = results[0]
    elif keyed:
        raise UserError(
            f"More than one result has a key that begins with {what}.",
            received=", ".join(f"{manifest.stage} {manifest.key[:12]}" for manifest in keyed),
            remedy="Give more of the key.",
        )
    else:
        record = find_run(opened(store), what)
        origins, users = lineage.origins(record), lineage.users(record)
        results, document = [], record.model_dump(mode="json") | {"made_by": origins, "used_by": users}
        if not as_json:
            _print_run(record, origins, users)
            return
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        _print_results(results)


def diff(
    one: Annotated[str, typer.Argument(help="A run's id, or its beginning or end.")],
    other: Annotated[str, typer.Argument(help="Another one's; the newest where left out.")] = "",
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Compare two runs: config, why the keys of their stages differ, metrics."""
    found = opened(store)
    document = difference(found, find_run(found, one), find_run(found, other))
    if as_json:
        print(json.dumps(document, indent=1))
        return
    listed = table("", *document["runs"])
    for name, values in document["config"].items():
        if values[0] != values[1]:
            listed.add_row(name, *(escaped(str(value)) for value in values))
    for name, values in document["metrics"].items():
        listed.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    out.print(listed)
    for stage, why in document["stages"].items():
        out.print(f"{stage:<9} {escaped(why if isinstance(why, str) else '; '.join(why))}")


def report(run_id: RunId = "", store: StoreUrl = "") -> None:
    """Print where the HTML report of a run is; it is made again if it is missing or would be another now."""
    found = opened(store)
    print(report_of(found, find_run(found, run_id), current_settings()))


def verify_store(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte instead of going by size and checksum.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is damaged: the next run computes it again.")
    ] = False,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Check every object of every result of a store. Exit code 1 where one is damaged."""
    found = opened(store)
    damage, num_objects = verify(found, deep=deep)
    if remove:
        found.delete(damaged.stored.location for damaged in damage)
    if as_json:
        rows = [
            {
                "stage": d.manifest.stage,
                "key": d.manifest.key,
                "object": d.stored.location,
                "problem": d.problem,
            }
            for d in damage
        ]
        print(json.dumps({"objects": num_objects, "damaged": rows}, indent=1))
    else:
        for damaged in damage:
            out.print(f"{damaged.manifest.stage} {damaged.manifest.key[:8]}: {damaged.problem}", markup=False)
        out.print(f"{num_objects} objects checked, {len(damage)} damaged")
    if damage and not remove:
        raise ObjectAltered(
            f"{len(damage)} objects are not as they were recorded.",
            where=found.url,
            remedy="Run the same command that made them again, or `hemaflow verify --remove` first.",
        )


def gc(
    keep_runs: Annotated[
        int | None, typer.Option("--keep-runs", min=1, help="Keep the newest runs, drop the others.")
    ] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Drop runs that began longer ago: 30d, 12h, 90m.")
    ] = "",
    grace: Annotated[
        str, typer.Option("--grace", help="Leave alone what was written within this time.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Remove what no run of the store needs; with --keep-runs or --older-than, old runs first."""
    if keep_runs is not None and older_than:
        raise ConfigError("--keep-runs and --older-than exclude each other.", remedy="Give one of them.")
    garbage = collect_garbage(
        opened(store),
        keep_runs=keep_runs,
        older_than_seconds=seconds_of(older_than, "--older-than") if older_than else None,
        grace_seconds=seconds_of(grace, "--grace"),
        dry_run=dry_run,
    )
    if as_json:
        print(json.dumps(vars(garbage) | {"dry_run": dry_run}, indent=1, default=list))
        return
    for run in garbage.runs:
        out.print(f"run {run}")
    for result in garbage.results:
        out.print(result)
    verb = "would be removed" if dry_run else "removed"
    out.print(
        f"{len(garbage.runs)} runs, {len(garbage.results)} results, {garbage.objects} objects {verb}: "
        f"{size(garbage.size_bytes)}"
    )


def seconds_of(text: str, option: str) -> float:
    """Return the seconds of a duration such as 30d. Raises ConfigError."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not matched:
        raise ConfigError(
            f"{option} {text}: that is no duration.", expected="a number and s, m, h, d or w, such as 30d"
        )
    return float(matched[1]) * _UNITS[matched[2]]


class _Use(TypedDict):
    """A run that made (`ran`) or reused a result."""

    run: str
    state: str


class _Object(TypedDict):
    """An object of a result."""

    name: str
    size_bytes: int
    sha256: str


class _Result(TypedDict):
    """What `hemaflow show --json` says of a stage result; a local file is named with the object it equals."""

    file: NotRequired[str]
    object: NotRequired[str]
    stage: str
    key: str
    made_from: dict[str, list[str]]
    used_by: list[str]
    runs: list[_Use]
    config: Mapping[str, JsonValue]
    libraries: dict[str, str]
    code: list[str]
    facts: Mapping[str, JsonValue]
    objects: list[_Object]


def _results_with(lineage: Lineage, path: Path) -> list[_Result]:
    """Return the results that hold the content of a file. Raises UserError where none does."""
    found: list[_Result] = [
        {"file": str(path), "object": stored.name, **_result_document(lineage, manifest)}
        for manifest, stored in lineage.with_content(file_sha256(path))
    ]
    if not found:
        raise UserError(
            "No result in this store holds a file with that content.",
            received=str(path),
            remedy="Name the store that it came from with --store.",
        )
    return found


def _result_document(lineage: Lineage, manifest: Manifest) -> _Result:
    return {
        "stage": manifest.stage,
        "key": manifest.key,
        "made_from": {
            name: sorted(parent.key for parent in lineage.parents(manifest) if digest in digests(parent))
            for name, digest in manifest.inputs.parents.items()
        },
        "used_by": [f"{child.stage} {child.key}" for child in lineage.children(manifest)],
        "runs": [{"run": record.run, "state": state} for record, state in lineage.uses(manifest.key)],
        "config": manifest.inputs.config,
        "libraries": manifest.inputs.libraries,
        "code": sorted(manifest.inputs.code),
        "facts": manifest.facts,
        "objects": [
            {"name": stored.name, "size_bytes": stored.size_bytes, "sha256": stored.sha256}
            for stored in manifest.objects
        ],
    }


def _print_results(results: Sequence[_Result]) -> None:
    for document in results:
        if "file" in document:
            out.print(f"{document['file']} is {document['object']} of", markup=False)
        out.print(f"[bold]{document['stage']}[/] {document['key']}")
        facts = table(header=False)
        for stage, keys in document["made_from"].items():
            facts.add_row("made from", f"{stage} {' or '.join(key[:12] for key in keys)}")
        for run in document["runs"]:
            facts.add_row("made by" if run["state"] == "ran" else "reused by", f"run {run['run']}")
        for child in document["used_by"]:
            facts.add_row("used by", " ".join(part[:12] for part in child.split()))
        for name, values in (("config", document["config"]), ("facts", document["facts"])):
            facts.add_row(name, escaped(json.dumps(values, ensure_ascii=False)))
        out.print(facts)
        objects = table("object", "size", "SHA-256")
        for stored in document["objects"]:
            objects.add_row(stored["name"], size(stored["size_bytes"]), stored["sha256"][:12])
        out.print(objects)


def _print_run(record: RunRecord, origins: Mapping[str, str], users: Sequence[str]) -> None:
    out.print(
        f"[bold]run[/] {record.run} {record.status} in {duration(record.seconds)}, begun {record.started}"
    )
    facts = table(header=False)
    facts.add_row("recipe", record.recipe)
    facts.add_row("data", escaped(record.data))
    for change in record.changes:
        facts.add_row("changed", escaped(change))
    if record.of:
        facts.add_row("pinned to", f"run {record.of}")
    facts.add_row("hemaflow", " ".join(filter(None, (record.hemaflow, record.git_revision))))
    for name, location in record.outputs.items():
        facts.add_row(name, location)
    if record.verdict:
        facts.add_row("verdict", escaped(str(record.verdict["reason"])))
    if record.error:
        facts.add_row("error", escaped(record.error))
    for user in users:
        facts.add_row("used by", f"run {user}")
    out.print(facts)
    stages = table("stage", "key", "", "made by run", "seconds", "because")
    for stage in record.stages:
        maker = origins.get(stage.stage, "")
        stages.add_row(
            *(stage.stage, stage.key[:8], stage.state, "this one" if maker == record.run else maker),
            *(f"{stage.seconds:.1f}", escaped(stage.reason)),
        )
    out.print(stages)
    for name, entry in record.measured.measured().items():
        low, high = entry.intervals["accuracy"]
        out.print(f"{name:<14} accuracy {entry.accuracy:.4f} ({low:.4f} to {high:.4f})")
