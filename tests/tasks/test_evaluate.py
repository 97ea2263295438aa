from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import CLASSES, SIZE, inputs, put_shards

from infra.draft import Draft
from infra.local_store import LocalStore
from infra.manifest import Manifest
from tasks.evaluate import EvaluateConfig, run
from tasks.preview import Example, draw_sheet
from tasks.records import one_hot
from tasks.stage import Parents

COUNTS = {"train": 9, "val": 12, "test": 31}


def parents(
    store: LocalStore, folder: Path, num_test: int = COUNTS["test"], sharpness: float = 9.0
) -> Parents:
    """Results of ingest, augment and train; the model names the leading colour of the left half."""
    import keras

    pixels = keras.Input((SIZE, SIZE, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, SIZE // 2)))(keras.layers.Rescaling(1 / 255)(pixels))
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(pixels, dense(keras.layers.GlobalAveragePooling2D()(left)))
    dense.set_weights([sharpness * np.eye(3, dtype=np.float32), np.zeros(3, np.float32)])
    model.save(folder / "model.keras")
    ingest, augment, train = (Draft(store, inputs(stage)) for stage in ("ingest", "augment", "train"))
    put_shards(ingest, "val", COUNTS["val"])
    put_shards(ingest, "test", num_test, num_shards=2)
    ingest.put("findings.json", b"[]")
    example = Example("original", np.zeros((SIZE, SIZE, 3), np.uint8), one_hot(0, 3))
    augment.put("preview.png", draw_sheet([("blue", [example])], CLASSES))
    train.put_file("model.keras", folder / "model.keras")
    train.put("history.json", b"[]")
    facts = {
        "classes": CLASSES,
        "image_size_pixels": SIZE,
        "num_examples": {**COUNTS, "test": num_test},
        "class_counts": {"train": [3] * 3, "val": [4] * 3, "test": [num_test // 3] * 3},
        "source": "pictures",
        "num_findings": {},
    }
    trained = {
        "epochs": 0,
        "optimizer_steps": 0,
        "best_epoch": 0,
        "best_val_accuracy": 0.0,
        "backbone": "cnn",
        "num_parameters": 12,
    }
    manifests = {
        "ingest": ingest.commit(**facts),
        "augment": augment.commit(num_examples=9, num_shards=1),
        "train": train.commit(**trained),
    }
    return Parents(store, manifests)


def evaluate(store: LocalStore, results: Parents, **config: Any) -> Manifest:
    draft = Draft(store, inputs("evaluate", **config))
    return run(results, EvaluateConfig(bootstrap_resamples=20, **config), draft)


def rows(store: LocalStore, manifest: Manifest, split: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(manifest.read(store, f"predictions-{split}.csv").decode())))


def test_metrics_are_those_of_the_predictions(store: LocalStore, tmp_path: Path) -> None:
    manifest = evaluate(store, parents(store, tmp_path), tta="dihedral", batch_size=8)
    metrics = json.loads(manifest.read(store, "metrics.json"))
    entries = {f"{split}{mix}{views}" for split in COUNTS for mix in ("", "_heavy") for views in ("", "_tta")}
    assert set(metrics) == {e for e in entries if "train" not in e} | {"val_medmnistc", "test_medmnistc"}
    for split in ("val", "test"):
        predicted = rows(store, manifest, split)
        assert len(predicted) == COUNTS[split]
        assert len({row["id"] for row in predicted}) == COUNTS[split]
        labels = np.array([int(row["label"]) for row in predicted])
        for prefix, name in (("prob", split), ("tta", f"{split}_tta")):
            probabilities = np.array([[float(row[f"{prefix}_{k}"]) for k in range(3)] for row in predicted])
            np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
            accuracy = float((probabilities.argmax(1) == labels).mean())
            assert metrics[name]["accuracy"] == pytest.approx(accuracy)
            low, high = metrics[name]["intervals"]["accuracy"]
            assert low <= accuracy <= high
    assert manifest.facts["metrics"]["test"]["accuracy"] == metrics["test"]["accuracy"]
    assert "corruptions" not in manifest.facts["metrics"]["test_medmnistc"]
    assert len(manifest.facts["tta_views"]) == 8


def test_tta_averages_over_views_and_none_is_plain(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    plain = rows(store, evaluate(store, results, tta="none"), "test")
    assert all(row["prob_0"] == row["tta_0"] for row in plain)
    averaged = rows(store, evaluate(store, results, tta="flips"), "test")
    assert [row["prob_0"] for row in averaged] == [row["prob_0"] for row in plain]
    assert any(row["prob_0"] != row["tta_0"] for row in averaged)


def test_the_report_shows_the_mistakes_and_is_the_same_each_time(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path, sharpness=-9.0)  # always wrong
    manifest = evaluate(store, results, num_mistakes=5)
    page = manifest.read(store, "report.html").decode()
    assert page.count("data:image/") >= 5
    assert manifest.facts["metrics"]["test"]["accuracy"] < 0.5
    other = LocalStore(tmp_path / "other")
    again = evaluate(other, parents(other, tmp_path, sharpness=-9.0), num_mistakes=5)
    assert again.object("report.html").sha256 == manifest.object("report.html").sha256


def test_spoiled_images_are_measured_like_clean_ones(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    manifest = evaluate(store, results, tta="flips", batch_size=8)
    metrics = json.loads(manifest.read(store, "metrics.json"))
    for split in ("val", "test"):
        assert set(metrics[f"{split}_heavy"]) == set(metrics[split])
        assert set(metrics[f"{split}_heavy_tta"]) == set(metrics[f"{split}_tta"])
        assert metrics[f"{split}_heavy"]["num_examples"] == COUNTS[split]
        assert metrics[f"{split}_heavy"]["accuracy"] < metrics[split]["accuracy"]
        assert len(metrics[f"{split}_medmnistc"]["corruptions"]) == 11
        assert metrics[f"{split}_medmnistc"]["num_examples"] == COUNTS[split]
    page = manifest.read(store, "report.html").decode()
    assert 'id="robustness"' in page
    assert "was not measured" not in page


def test_what_is_measured_of_spoiled_images_is_config(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    none = json.loads(evaluate(store, results, robustness="none").read(store, "metrics.json"))
    assert set(none) == {"val", "val_tta", "test", "test_tta"}
    some = evaluate(store, results, robustness="heavy", robustness_images=10, batch_size=8)
    metrics = json.loads(some.read(store, "metrics.json"))
    assert set(metrics) - set(none) == {"val_heavy", "val_heavy_tta", "test_heavy", "test_heavy_tta"}
    assert metrics["test_heavy"]["num_examples"] == 10
    assert {entry: metrics[entry]["accuracy"] for entry in none} == {
        entry: none[entry]["accuracy"] for entry in none
    }
    other = evaluate(store, results, robustness="heavy", robustness_images=10, robustness_seed=1)
    assert json.loads(other.read(store, "metrics.json"))["test_heavy"] != metrics["test_heavy"]


def test_an_empty_split_has_no_metrics(store: LocalStore, tmp_path: Path) -> None:
    manifest = evaluate(store, parents(store, tmp_path, num_test=0))
    metrics = json.loads(manifest.read(store, "metrics.json"))
    for entry in ("test", "test_heavy", "test_medmnistc"):
        assert metrics[entry] == {"num_examples": 0}
    assert rows(store, manifest, "test") == []
