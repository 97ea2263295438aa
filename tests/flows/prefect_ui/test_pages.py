"""The Markdown that Prefect's UI shows: figures in their places, and no text of the data breaking out."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.results import engine, run
from hemaflow.flows.prefect_ui import pages
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.review.judge import JudgeConfig, decide
from hemaflow.tasks.review.results import Drift, DriftRow
from hemaflow.tasks.sources.base import Finding

HOSTILE = "a|b<img src=x>"


def cells(page: str, first: str) -> list[str]:
    """Return the cells of the row that begins so."""
    [line] = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").replace("\\|", "\0").split("|")]


def metrics_page(document: dict[str, Any]) -> str:
    """Return the page of the metrics of a run."""
    return pages.metrics(RunMetrics.model_validate(document), "flips")


def test_a_plan_says_what_runs_and_why(store: LocalStore) -> None:
    run(store)
    own = engine(store, {"train": {"seed": 1}})
    page = pages.plan(own.plan(), {"train": 90.0, "evaluate": None})
    assert cells(page, "augment")[1] == "reused"
    train = cells(page, "train")
    assert train[1] == "**runs**"
    assert train[3] == "90 s"
    assert train[4].startswith("train.seed 0 → 1 (since run ")
    assert cells(page, "evaluate")[3] == ""


def test_findings_are_counted_listed_and_escaped() -> None:
    ingested = IngestFacts(
        classes=[HOSTILE, "platelet"],
        image_size_pixels=24,
        num_examples={"train": 7, "val": 1, "test": 2},
        class_counts={"train": [3, 4], "val": [1, 0], "test": [0, 2]},
        num_findings={"unreadable": 2},
        source=HOSTILE,
    )
    found = [Finding("unreadable", [HOSTILE, "b.png"], "dropped", "cut\nshort")] * (pages.MAX_FINDINGS + 3)
    page = pages.findings(ingested, found)
    assert cells(page, "**all**")[1:] == ["**7**", "**1**", "**2**"]
    assert cells(page, "platelet")[1:] == ["4", "0", "2"]
    assert "3 more: hemaflow findings RUN" in page
    assert "<img" not in page
    assert "cut short" in page
    assert "Nothing was found amiss" in pages.findings(ingested, [])


def test_metrics_of_an_empty_split_are_left_out() -> None:
    entry = {
        "accuracy": 0.9,
        "intervals": {"accuracy": [0.8, 0.95]},
        "num_examples": 10,
        "per_class": [
            {"class": name, "support": 2, "recall": recall} for name, recall in (("a", 0.5), ("b", 1.0))
        ],
        "confusion": [[1, 1], [0, 8]],
    }
    page = metrics_page({"val": {"num_examples": 0}, "test": entry, "test_tta": entry})
    assert cells(page, "Accuracy")[1:] == ["0.9000 (0.8000 to 0.9500)"] * 2
    assert cells(page, "a")[1:] == ["0.5000", "**1**", "1"]
    assert cells(page, "b")[1:] == ["1.0000", "", "**8**"]


def test_images_of_the_training_are_noted() -> None:
    test = {"num_examples": 2, "accuracy": 0.5, "intervals": {"accuracy": [0.1, 0.9]}}
    document = {"test": test, "already_learnt": {"val": 0, "test": 2}}
    assert "trained on 2 of the images of test" in metrics_page(document)


def test_views_that_are_not_those_asked_for_say_why() -> None:
    assert pages.views("search", ["identity", "rotate-90"], "") == "search: identity, rotate-90"
    assert pages.views("flips", ["identity"], "3 of 200 lost") == "flips: identity (3 of 200 lost)"


def test_metrics_of_spoiled_images_have_their_own_tables() -> None:
    clean = {"accuracy": 0.9, "intervals": {"accuracy": [0.8, 0.95]}, "num_examples": 10}
    heavy = {**clean, "accuracy": 0.5, "intervals": {"accuracy": [0.4, 0.6]}}
    corrupted = {
        "accuracy": 0.7,
        "balanced_accuracy": 0.65,
        "intervals": {"accuracy": [0.6, 0.8]},
        "num_examples": 10,
        "corruptions": [
            {
                "corruption": name,
                "accuracy": [0.9, 0.8],
                "balanced_accuracy": [0.9, 0.8],
                "balanced_error": error,
                "balanced_error_to_alexnet": 2,
            }
            for name, error in (("bubble", 0.125), ("pixelate", 0.25))
        ],
        "worst_corruption": "pixelate",
        "worst_class": HOSTILE,
    }
    document = {
        "test": clean,
        "test_heavy": heavy,
        "test_medmnistc": corrupted,
        "val_heavy": {"num_examples": 0},
    }
    page = metrics_page(document)
    spoiled = page.partition("## Spoiled images")[2]
    assert cells(spoiled, "Accuracy")[1:] == ["0.5000 (0.4000 to 0.6000)", "0.7000 (0.6000 to 0.8000)"]
    assert cells(spoiled, "Balanced accuracy")[1:] == ["", "0.6500"]
    assert cells(spoiled, "bubble")[1:] == ["0.9000", "0.8000", "0.1250", "2.00"]
    assert cells(spoiled, "**pixelate**")[3] == "0.2500"
    assert "Worst corruption: pixelate" in spoiled
    assert "<img" not in page
    assert "Spoiled" not in metrics_page({"test": clean})


@pytest.mark.parametrize(("better", "said"), [(True, "is promoted"), (False, "is not promoted")])
def test_a_verdict_shows_every_number_it_rests_on(better: bool, said: str) -> None:
    import numpy as np

    labels = np.arange(200) % 2
    good, bad = np.ones(200, bool), np.arange(200) % 10 != 0
    sides = (bad, good) if better else (good, bad)
    judged = decide(labels.astype(np.int64), *sides, [HOSTILE, "platelet"], JudgeConfig())
    page = pages.verdict("new", "old", judged)
    assert f"# The challenger {said}" in page
    assert cells(page, "challenger")[1:] == ["new", "1.0000" if better else "0.9000"]
    assert cells(page, "difference")[2].startswith("+0.1000" if better else "-0.1000")
    assert cells(page, "platelet")[1] == "100"
    assert "above -0.005" in page
    assert "<img" not in page


def test_drift_names_what_stands_out() -> None:
    row = DriftRow(
        name="labels", test="chi-squared", statistic=9.5, effect=0.4, p_corrected=0.0001, drifted=True
    )
    found = Drift(rows=[row], drifted=["labels"], num_new_images=40, notes=["A note."])
    page = pages.drift(found)
    assert page.startswith("# Drift: labels\n\n40 new images.")
    assert cells(page, "labels")[1:] == ["chi-squared", "9.5", "0.4000", "0.0001", "**drifted**"]
    assert pages.drift(found.model_copy(update={"rows": [], "drifted": []})).startswith("# Drift: nothing")


def test_tasks_are_called_by_what_they_do() -> None:
    assert pages.title("train", {"backbone": "efficientnetv2-s"}) == "train efficientnetv2-s"
    assert pages.title("augment", {"copies": 1}) == "augment 1 copy"
    assert pages.title("augment", {"copies": 7}) == "augment 7 copies"
    assert pages.title("evaluate", {"tta": "flips"}) == "evaluate flips"
    assert pages.title("ingest", {"seed": 0}) == "ingest"
