"""What the report says of the run that it is about: two places in the page of `report.py`, filled per run.

The page itself tells only of results, so that runs with the same results share it; filling it takes
milliseconds. Every text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

PAGE_NAME = "report.html"
PARENTS = ("ingest", "augment", "train", "predict", "evaluate")
"""The results that the page tells of."""
RUN_LINE = "<!-- the run in one line -->"
RUN_DETAILS = "<!-- the run in full -->"


@dataclass(frozen=True)
class RunDetails:
    """A run, for the page about its results."""

    run: str
    """Its id."""
    started: str
    """When it began, in ISO format with the offset from UTC."""
    recipe: str
    data: str
    hemaflow: str
    """Version of hemaflow, with the git revision where it is known."""
    command: str
    """A command that leads to the same results."""
    keys: Mapping[str, str]
    """Stage → key of the result that the page tells of."""
    configs: Mapping[str, Mapping[str, object]]
    """Stage → what of its config is in the key."""


def with_run(page: bytes, run: RunDetails) -> bytes:
    """Return the page of `render` with the details of a run; HTML in UTF-8."""
    filled = page.replace(RUN_LINE.encode(), _line(run).encode(), 1)
    return filled.replace(RUN_DETAILS.encode(), _details(run).encode(), 1)


def _line(run: RunDetails) -> str:
    began = f"{datetime.fromisoformat(run.started).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    recipe = f"recipe {escape(run.recipe)} on {escape(run.data)}"
    return (
        f'<p class="muted small" id="run">Run <code>{escape(run.run)}</code> · {began} · {recipe} · '
        f"hemaflow {escape(run.hemaflow)}</p>"
    )


def _details(run: RunDetails) -> str:
    rows = _rows({"command": run.command, **run.keys})
    settings = "".join(
        f'<details><summary>{escape(stage)} <span class="muted">· {len(config)} settings</span></summary>'
        f'<div class="scroll"><table><tbody>{_rows(_texts(config))}</tbody></table></div>'
        f"</details>"
        for stage, config in run.configs.items()
    )
    return (
        '<p class="muted small">The command that leads to the same results, and the keys of the results that '
        "this report rests on: the same key means the same bytes.</p>"
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>{settings}'
    )


def _rows(values: Mapping[str, str]) -> str:
    return "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in values.items()
    )


def _texts(config: Mapping[str, object]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
        for name, value in config.items()
    }
