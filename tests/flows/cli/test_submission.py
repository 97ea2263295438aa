"""`hemaflow check`: what it prints of a submission and of pictures with odd names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hemaflow.flows.cli import submission
from hemaflow.flows.cli.main import app
from hemaflow.tasks.core.run_metrics import ClassScores
from hemaflow.tasks.submit.check import Scorecard

NAME = "[/x]\x1b]0;title\x07"
CARD = Scorecard(
    split="all",
    num_images=4,
    size_pixels=96,
    accuracy=0.75,
    interval=(0.3, 0.95),
    balanced_accuracy=0.75,
    macro_f1=0.7,
    per_class=[ClassScores(name=NAME, precision=1.0, recall=0.75, f1=0.85, support=4)],
    unreadable={"\x1b[2J.png": "broken"},
    seconds=1.0,
    versions={},
)


@pytest.fixture(autouse=True)
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "check_submission", lambda *args, **options: CARD)


def test_odd_names_are_printed_as_text(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", "some.zip", "--data", str(tmp_path)])
    assert done.exit_code == 0
    assert r"[/x]\x1b]0;title\x07" in done.output
    assert r"left out \x1b[2J.png: broken" in done.output
    assert "\x1b" not in done.output


def test_json_has_the_names_as_they_are(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", "some.zip", "--data", str(tmp_path), "--json"])
    scores = json.loads(done.stdout)["per_class"]
    assert scores == [{"class": NAME, "precision": 1.0, "recall": 0.75, "f1": 0.85, "support": 4}]
