"""Metrics and report from kept probabilities alone: no network runs, and TensorFlow is not loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.facts import augment_facts, predict_facts, train_facts
from helpers.pictures import SIZE, Cell, colour_cells, ingested, inputs
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.augment.preview import Example, draw_sheet
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.evaluate import metrics, stage
from hemaflow.tasks.evaluate.config import EvaluateConfig
from hemaflow.tasks.predict.pictures import Explained, write_pictures
from hemaflow.tasks.predict.probabilities import (
    SplitPredictions,
    SpoiledPredictions,
    load_predictions,
    new_array,
    put_predictions,
)
from hemaflow.tasks.predict.spoiled import SpoiledPictures
from hemaflow.tasks.records.schema import one_hot
from hemaflow.tasks.report import stage as report

VIEWS = ("identity", "flip-horizontal")
SPLITS = {"val": colour_cells("val", 30, (0, 1, 2)), "test": colour_cells("test", 40, (0, 1, 2))}
NUM_SPOILED = 20


def predictions(split: str, cells: list[Cell], folder: Path) -> SplitPredictions:
    """Every third image is named wrong as it is, none in the other view."""
    labels = np.array([cell.label for cell in cells], np.int64)
    named = np.where(np.arange(len(cells)) % 3 == 2, (labels + 1) % 3, labels)

    def array(condition: str, *answers: np.ndarray) -> np.ndarray:
        made = new_array(folder, split, condition, (len(answers), len(answers[0]), 3))
        for row, names, sure in zip(made, answers, (0.6, 0.9), strict=True):
            row[:] = (1 - sure) / 2 + np.eye(3)[names] * (1.5 * sure - 0.5)
        return made

    clean = array("clean", named, labels)
    mixed = array("heavy_mix", named[:NUM_SPOILED], labels[:NUM_SPOILED])
    corrupted = new_array(folder, split, "medmnistc", (11, 5, NUM_SPOILED, 3))
    corrupted[:] = np.eye(3)[labels[:NUM_SPOILED]]
    spoiled = SpoiledPredictions(labels[:NUM_SPOILED], mixed, corrupted)
    return SplitPredictions(split, VIEWS, [cell.id for cell in cells], labels, clean, spoiled)


@pytest.fixture
def results(store: LocalStore, tmp_path: Path) -> Parents:
    """Results of all stages before evaluate, whose probabilities are made up."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    ingest = Draft(store, inputs("ingest", name="findings"))
    ingest.put("findings.json", b"[]")
    cells = ingested(store, "cells", SPLITS)
    for stored in cells.objects:
        ingest.adopt(stored)
    augment, train, predict = (Draft(store, inputs(name)) for name in ("augment", "train", "predict"))
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    augment.put("preview.png", draw_sheet([("blue", [Example("original", pixels, one_hot(0, 3))])], ["blue"]))
    train.put("history.json", b"[]")
    for split, of_split in SPLITS.items():
        found = predictions(split, of_split, folder)
        put_predictions(predict, folder, found, np.arange(len(of_split)) < NUM_SPOILED)
    pictures = SpoiledPictures({0: pixels, 1: pixels, 2: pixels}, pixels, [pixels] * 11)
    explained = [Explained("test0", pixels, np.zeros((SIZE, SIZE), np.float32), 0, 1, 0.5)]
    predict.put("pictures.npz", write_pictures((found.spoiled, pictures), explained))
    manifests = {
        "ingest": ingest.commit(**cells.facts),
        "augment": augment.commit(**augment_facts(9)),
        "train": train.commit(**train_facts()),
        "predict": predict.commit(**predict_facts(views=list(VIEWS))),
    }
    return Parents(store, manifests)


def evaluated(results: Parents, **config: object) -> Manifest:
    asked = EvaluateConfig.model_validate({"tta": ",".join(VIEWS), "bootstrap_resamples": 20, **config})
    draft = Draft(results.store, inputs("evaluate", number=len(list(results.store.list("stages/evaluate/")))))
    return stage.run(results, asked, draft)


def test_what_was_kept_is_read_as_it_was_predicted(results: Parents, tmp_path: Path) -> None:
    for split, cells in SPLITS.items():
        found = load_predictions(results.store, results["predict"], split)
        (tmp_path / split).mkdir()
        expected = predictions(split, cells, tmp_path / split)
        assert (found.ids, found.views) == (expected.ids, VIEWS)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.clean, expected.clean)
        assert found.spoiled
        for kept, made in zip(found.spoiled, expected.spoiled or (), strict=True):
            np.testing.assert_array_equal(kept, made)


def test_metrics_are_those_of_the_kept_probabilities(store: LocalStore, results: Parents) -> None:
    manifest = evaluated(results)
    found = RunMetrics.model_validate_json(manifest.read(store, "metrics.json"))
    accuracies = {name: entry.accuracy for name, entry in found.measured().items() if name[:4] == "test"}
    assert accuracies == {
        "test": pytest.approx(27 / 40),
        "test_tta": 1.0,
        "test_heavy_mix": pytest.approx(14 / 20),
        "test_heavy_mix_tta": 1.0,
        "test_medmnistc": 1.0,
    }
    assert manifest.facts["tta_views"] == list(VIEWS)
    assert evaluated(results).digest == manifest.digest


def test_the_views_are_searched_without_another_pass(store: LocalStore, results: Parents) -> None:
    config = {"tta": "search", "tta_candidates": ",".join(VIEWS)}
    assert evaluated(results, **config).facts["tta_views"] == list(VIEWS)
    alone = evaluated(results, **config, tta_max_views=1)
    assert alone.facts["tta_views"] == ["identity"]
    assert alone.facts["metrics"]["test_tta"]["accuracy"] == pytest.approx(27 / 40)


def test_another_metric_needs_no_network_and_is_on_the_page(
    results: Parents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.METRICS, "_entries", dict(metrics.METRICS), raising=True)

    @metrics.metric("error", "Error rate", "share of the images named wrong")
    def error(sample: metrics.Resamples) -> metrics.Values:
        return 1 - metrics.accuracy(sample)

    manifest = evaluated(results)
    measured = json.loads(manifest.read(results.store, "metrics.json"))
    assert measured["test"]["error"] == pytest.approx(13 / 40)
    everything = Parents(results.store, {**results.manifests, "evaluate": manifest})
    page = report.run(everything, StageConfig(), Draft(results.store, inputs("report"))).read(
        results.store, "report.html"
    )
    assert b"Error rate" in page
    assert page.count(b"<figure><img") == 1
    assert page.count(b"The same under") == 11
