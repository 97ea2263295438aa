"""Commands that list what a config can name: backbones, fields, augmentation layers, views."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from hemaflow.flows.cli.options import Json, escaped, out, table
from hemaflow.flows.config.fields import fields
from hemaflow.flows.config.stages import STAGE_NAMES, STAGES
from hemaflow.infra.errors import ConfigError, nearest
from hemaflow.tasks.inference.views import PRESETS
from hemaflow.tasks.layers.keras_cv_table import LAYERS
from hemaflow.tasks.layers.online import ONLINE_LAYERS
from hemaflow.tasks.layers.schema import Factor
from hemaflow.tasks.model.backbones import BACKBONES


def list_backbones(as_json: Json = False) -> None:
    """List the backbones: --set train.backbone=NAME."""
    if as_json:
        rows = [{"name": name, **asdict(row)} for name, row in BACKBONES.items()]
        print(json.dumps(rows, indent=1))
        return
    listed = table("backbone")
    for heading in ("parameters", "native px", "least px"):
        listed.add_column(heading, justify="right")
    for heading in ("pixels", "last stage begins at", "source"):
        listed.add_column(heading)
    for name, row in BACKBONES.items():
        listed.add_row(
            name,
            f"{row.num_parameters / 1e6:.2f} M",
            str(row.native_pixels),
            str(row.min_pixels),
            row.preprocessing,
            row.last_stage,
            row.source,
        )
    out.print(listed)


def list_fields(
    stage: Annotated[str, typer.Argument(help="Only the fields of this stage.")] = "", as_json: Json = False
) -> None:
    """List every field of a config with its type, range, default and meaning."""
    if stage and stage not in STAGE_NAMES:
        raise ConfigError(f"There is no stage {stage!r}.", expected=nearest(stage, STAGE_NAMES))
    found = fields(STAGES[stage].section if stage else "")
    if as_json:
        print(json.dumps([field._asdict() for field in found], indent=1))
        return
    listed = table("field", "type", "range", "default", "meaning")
    for field in found:
        cells = (field.path, field.type, field.range, json.dumps(field.default), field.meaning)
        listed.add_row(*map(escaped, cells))
    out.print(listed)


def list_layers(as_json: Json = False) -> None:
    """List the augmentation layers and their arguments: offline (augment.layers), online (train.online)."""
    tables: dict[str, Mapping[str, Mapping[str, Factor]]] = {
        "augment.layers": LAYERS,
        "train.online": ONLINE_LAYERS,
    }
    rows = [
        {
            "layer": layer,
            "field": field,
            "arguments": {
                name: {"expected": factor.expected, "required": factor.required}
                for name, factor in factors.items()
            },
        }
        for field, layers in tables.items()
        for layer, factors in layers.items()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    listed = table("layer", "field", "argument", "value")
    for field, layers in tables.items():
        for layer, factors in layers.items():
            listed.add_row(layer, field, "" if factors else "none", "")
            for name, factor in factors.items():
                needed = " (required)" if factor.required else ""
                listed.add_row("", "", f"{name}{needed}", escaped(factor.expected))
    out.print(listed)


def list_views(as_json: Json = False) -> None:
    """List the views of test-time augmentation and their presets: --set evaluate.tta=NAME."""
    views = list(dict.fromkeys(view for preset in PRESETS.values() for view in preset))
    if as_json:
        print(json.dumps({"views": views, "presets": PRESETS}, indent=1))
        return
    listed = table("preset", "views")
    listed.add_row("search", "chosen on val: those that help, clean and under the heavy mix")
    for name, preset in PRESETS.items():
        listed.add_row(name, ", ".join(preset))
    out.print(listed)
    out.print(f"\nA list of views, separated by commas, is allowed as well: {', '.join(views)}")
