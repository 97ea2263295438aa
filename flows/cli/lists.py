"""The command that lists the backbones a model can be built on."""

from __future__ import annotations

import json
from dataclasses import asdict

from hemaflow.flows.cli.options import Json, out, table
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
