"""The command `hemaflow label-errors`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hemaflow.flows.api.console import ConsoleObserver
from hemaflow.flows.api.start import carry_out_workflow, label_errors_flow
from hemaflow.flows.cli.options import Changes, Data, Json, StoreUrl, err, escaped, opened, out, table
from hemaflow.flows.config.folds import fold_requests
from hemaflow.infra.errors import ConfigError, nearest
from hemaflow.tasks.review.label_errors import CSV_NAME, PAGE_NAME, RANKINGS, read_candidates
from hemaflow.tasks.review.results import LabelErrorsFacts

LISTED = 20
"""Candidates that the command lists; the page and the CSV have more."""


def label_errors(
    data: Data = "",
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe; see `hemaflow recipes`.")] = "laptop",
    folds: Annotated[
        int, typer.Option(help="Into how many folds the images are divided.", min=2, max=20)
    ] = 5,
    changes: Changes = None,
    rank_by: Annotated[
        str, typer.Option(help="What orders the candidates: self_confidence or normalized_margin.")
    ] = "self_confidence",
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """List images whose labels may be wrong: models that did not learn from them contradict."""
    if rank_by not in RANKINGS:
        raise ConfigError(
            f"--rank-by {rank_by}: there is no such order.", expected=nearest(rank_by, RANKINGS)
        )
    fold_requests(recipe, changes=tuple(changes or ()), folds=folds)
    from hemaflow.flows.workflows.label_errors import search_label_errors

    with ConsoleObserver(err) as observer:
        found = carry_out_workflow(
            search_label_errors,
            label_errors_flow,
            observer,
            recipe=recipe,
            data=data,
            changes=tuple(changes or ()),
            folds=folds,
            rank_by=rank_by,
            store=store,
        )
    where, result = opened(store), found.result
    facts = LabelErrorsFacts.of(result)
    candidates = read_candidates(result.read(where, CSV_NAME))
    outputs = {"page": result.object(PAGE_NAME).location, "csv": result.object(CSV_NAME).location}
    if as_json:
        document = {
            "runs": found.runs,
            "key": result.key,
            "num_images": facts.num_images,
            "candidates": [row.document() for row in candidates],
            "conflicts": facts.conflicts,
            **{name: f"{where.url}/{location}" for name, location in outputs.items()},
        }
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    listed = table("", "image", "labelled", "suggested", "score")
    for row in candidates[:LISTED]:
        named = map(escaped, (row.id, row.given, row.suggested))
        listed.add_row(str(row.rank), *named, f"{row.score:.4f}")
    out.print(listed)
    out.print(f"{len(candidates)} candidates of {facts.num_images} images")
    for items in facts.conflicts:
        out.print(f"one picture under several labels: {' = '.join(items)}", markup=False)
    for name, location in outputs.items():
        out.print(f"{name:<10} {where.url}/{location}", markup=False)
