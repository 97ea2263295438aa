"""The commands `hemaflow check` and `hemaflow predict`: what a model says of pictures that no run knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.text import Text

from hemaflow.flows.api.console import silenced
from hemaflow.flows.cli.options import Json, StoreUrl, err, opened, out, table
from hemaflow.flows.runs.find import trained_model
from hemaflow.infra.errors import ConfigError, nearest, printable
from hemaflow.infra.settings import current_settings
from hemaflow.tasks.sources.images import Fit
from hemaflow.tasks.submit.check import check_submission


def check(
    submission: Annotated[Path, typer.Argument(help="The zip.")],
    data: Annotated[str, typer.Option("--data", help="Pictures with known classes, as for `run`.")],
    split: Annotated[
        str, typer.Option(help="all, train, val or test; by default test where the source has splits.")
    ] = "",
    size: Annotated[
        int,
        typer.Option(help="Pictures are brought to this square, in pixels; 0: what the model takes.", min=0),
    ] = 0,
    fit: Annotated[
        str, typer.Option(help="How pictures become squares, as ingest.fit: crop, pad or stretch.")
    ] = "crop",
    as_json: Json = False,
) -> None:
    """Score a submission on pictures of your own. The code in the zip is run with your rights."""
    if split not in ("", "all", "train", "val", "test"):
        raise ConfigError(
            f"--split {split}: there is no such split.",
            expected=nearest(split, ["all", "train", "val", "test"]),
        )
    if fit not in get_args(Fit):
        raise ConfigError(f"--fit {fit}: there is no such way.", expected=nearest(fit, get_args(Fit)))
    with err.status("running the submission"):
        card = check_submission(
            submission,
            data,
            current_settings(),
            split=split,  # type: ignore[arg-type]
            size_pixels=size,
            fit_method=fit,  # type: ignore[arg-type]
        )
    for ref, reason in card.unreadable.items():
        err.print(printable(f"left out {ref}: {reason}"), markup=False)
    if as_json:
        scored = [row.model_dump(mode="json", by_alias=True) for row in card.per_class]
        print(json.dumps({**card._asdict(), "per_class": scored}, indent=1))
        return
    low, high = card.interval
    out.print(f"images            {card.num_images} ({card.split}), at {card.size_pixels} pixels")
    out.print(f"accuracy          {card.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})")
    out.print(f"balanced accuracy {card.balanced_accuracy:.4f}")
    out.print(f"macro F1          {card.macro_f1:.4f}")
    out.print(f"seconds           {card.seconds:.1f}")
    scores = table("class")
    for heading in ("precision", "recall", "f1", "images"):
        scores.add_column(heading, justify="right")
    for row in card.per_class:
        numbers = (f"{getattr(row, name):.4f}" for name in ("precision", "recall", "f1"))
        scores.add_row(Text(printable(row.name)), *numbers, str(row.support))
    out.print(scores)


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG or PNG files.")],
    run_id: Annotated[
        str, typer.Option("--run", help="The run whose model is used, or `champion`; the newest if left out.")
    ] = "",
    store: StoreUrl = "",
    as_json: Json = False,
) -> None:
    """Name the cells in image files with the model of a run."""
    model = trained_model(opened(store), run_id)
    with silenced():
        from hemaflow.tasks.inference.predict import predict_images

        named = predict_images(
            model.path, images, model.image_size_pixels, model.classes, model.views, model.fit_method
        )
    if as_json:
        print(json.dumps(named, indent=1))
        return
    for result in named:
        likeliest = ", ".join(f"{top['class']} {top['probability']:.4f}" for top in result["top"])
        out.print(f"{result['image']}: {likeliest}", markup=False)
