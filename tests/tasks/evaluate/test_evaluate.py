from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.facts import augment_facts, ingest_facts, train_facts
from helpers.pictures import CLASSES, SIZE, Cell, inputs, put_shards
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.augment.preview import Example, draw_sheet
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.evaluate.config import EvaluateConfig
from hemaflow.tasks.evaluate.stage import run
from hemaflow.tasks.inference.views import PRESETS
from hemaflow.tasks.predict.stage import run as predict
from hemaflow.tasks.records import schema
from hemaflow.tasks.records.schema import one_hot
from hemaflow.tasks.records.tfrecord import write_records
from hemaflow.tasks.report.stage import run as report
from hemaflow.tasks.submit.config import SubmitConfig
from hemaflow.tasks.submit.stage import run as submit

pytestmark = pytest.mark.slow

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
    facts = ingest_facts(CLASSES, SIZE, {**COUNTS, "test": num_test})
    manifests = {
        "ingest": ingest.commit(**facts),
        "augment": augment.commit(**augment_facts(9)),
        "train": train.commit(**train_facts()),
    }
    return Parents(store, manifests)


def judged(store: LocalStore, results: Parents, **config: Any) -> Parents:
    """The results with those of predict and evaluate."""
    asked = EvaluateConfig(bootstrap_resamples=20, **config)
    passes = asked.passes()
    predicted = predict(results, passes, Draft(store, inputs("predict", **passes.key_document())))
    with_predictions = Parents(store, {**results.manifests, "predict": predicted})
    evaluated = run(with_predictions, asked, Draft(store, inputs("evaluate", **config)))
    return Parents(store, {**with_predictions.manifests, "evaluate": evaluated})


def evaluate(store: LocalStore, results: Parents, **config: Any) -> Manifest:
    return judged(store, results, **config)["evaluate"]


def report_of(made: Parents) -> bytes:
    number = len(list(made.store.list("stages/report/")))
    draft = Draft(made.store, inputs("report", number=number))
    return report(made, StageConfig(), draft).read(made.store, "report.html")


def two_sided(left: float, right: float, count: int = 40) -> list[Cell]:
    """Return cells whose own colour leads on one side by as much as another one does on the other side.

    Args:
        left: How much brighter the own colour is on the left.
        right: How much brighter a wrong one is on the right.
        count: How many.
    """
    cells = []
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 100, (SIZE, SIZE, 3)).astype(np.float32)
        label = number % 3
        image[:, : SIZE // 2, label] += left
        image[:, SIZE // 2 :, (label + 1) % 3] += right
        cells.append(Cell(f"cell{number}", label, image.astype(np.uint8)))
    return cells


def with_cells(store: LocalStore, folder: Path, cells: list[Cell]) -> Parents:
    """The results of `parents` with val and test made of these cells; the model sees the left half alone."""
    results = parents(store, folder)
    facts = results["ingest"].facts
    ingest = Draft(store, inputs("ingest", name="cells"))
    ingest.put("findings.json", b"[]")
    for split in ("val", "test"):
        encoded = [schema.encode(cell.id, cell.image, one_hot(cell.label, 3)) for cell in cells]
        count = write_records(folder / "shard", encoded)
        ingest.put_file(schema.shard_name(split, 0, 1), folder / "shard", num_records=count)
    counts = {"train": 9, "val": len(cells), "test": len(cells)}
    made = ingest.commit(**{**facts, "num_examples": counts})
    return Parents(store, {**results.manifests, "ingest": made})


def rows(store: LocalStore, manifest: Manifest, split: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(manifest.read(store, f"predictions-{split}.csv").decode())))


def test_metrics_are_those_of_the_predictions(store: LocalStore, tmp_path: Path) -> None:
    manifest = evaluate(store, parents(store, tmp_path), tta="dihedral", batch_size=8)
    metrics = json.loads(manifest.read(store, "metrics.json"))
    entries = {
        f"{split}{mix}{views}" for split in COUNTS for mix in ("", "_heavy_mix") for views in ("", "_tta")
    }
    spoiled = {"val_medmnistc", "test_medmnistc"}
    assert set(metrics) == {e for e in entries if "train" not in e} | spoiled | {"tta"}
    assert set(manifest.facts["metrics"]) == set(metrics) - {"tta"}
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


def test_tta_averages_over_views_and_none_is_plain(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    plain = rows(store, evaluate(store, results, tta="none"), "test")
    assert all(row["prob_0"] == row["tta_0"] for row in plain)
    flipped = evaluate(store, results, tta="flips", robustness="none")
    assert flipped.facts["tta_views"] == list(PRESETS["flips"])
    assert flipped.facts["tta_reason"] == ""
    averaged = rows(store, flipped, "test")
    assert [row["prob_0"] for row in averaged] == [row["prob_0"] for row in plain]
    assert any(row["prob_0"] != row["tta_0"] for row in averaged)


def test_the_report_shows_the_mistakes_and_is_the_same_each_time(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path, sharpness=-9.0)  # always wrong
    made = judged(store, results, num_mistakes=5)
    page = report_of(made)
    assert page.count(b"data:image/") >= 5
    assert made["evaluate"].facts["metrics"]["test"]["accuracy"] < 0.5
    other = LocalStore(tmp_path / "other")
    again = judged(other, parents(other, tmp_path, sharpness=-9.0), num_mistakes=5)
    assert report_of(again) == page
    for stage in ("predict", "evaluate"):
        assert again[stage].digest == made[stage].digest


def test_spoiled_images_are_measured_like_clean_ones(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    made = judged(store, results, tta="flips", batch_size=8)
    metrics = json.loads(made["evaluate"].read(store, "metrics.json"))
    for split in ("val", "test"):
        assert set(metrics[f"{split}_heavy_mix"]) == set(metrics[split])
        assert set(metrics[f"{split}_heavy_mix_tta"]) == set(metrics[f"{split}_tta"])
        assert metrics[f"{split}_heavy_mix"]["num_examples"] == COUNTS[split]
        assert metrics[f"{split}_heavy_mix"]["accuracy"] < metrics[split]["accuracy"]
        assert len(metrics[f"{split}_medmnistc"]["corruptions"]) == 11
        assert metrics[f"{split}_medmnistc"]["num_examples"] == COUNTS[split]
    page = report_of(made)
    assert b'id="robustness"' in page
    assert b"was not measured" not in page


def test_what_is_measured_of_spoiled_images_is_config(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    none = json.loads(evaluate(store, results, robustness="none").read(store, "metrics.json"))
    assert set(none) == {"val", "val_tta", "test", "test_tta", "tta"}
    some = evaluate(store, results, robustness="heavy_mix", robustness_images=10, batch_size=8)
    metrics = json.loads(some.read(store, "metrics.json"))
    assert set(metrics) - set(none) == {
        "val_heavy_mix",
        "val_heavy_mix_tta",
        "test_heavy_mix",
        "test_heavy_mix_tta",
    }
    assert metrics["test_heavy_mix"]["num_examples"] == 10
    for entry in ("val", "test"):
        assert metrics[entry]["accuracy"] == none[entry]["accuracy"]
    other = evaluate(store, results, robustness="heavy_mix", robustness_images=10, robustness_seed=1)
    assert json.loads(other.read(store, "metrics.json"))["test_heavy_mix"] != metrics["test_heavy_mix"]


def test_an_empty_split_has_no_metrics(store: LocalStore, tmp_path: Path) -> None:
    made = judged(store, parents(store, tmp_path, num_test=0))
    manifest = made["evaluate"]
    metrics = json.loads(manifest.read(store, "metrics.json"))
    for entry in ("test", "test_heavy_mix", "test_medmnistc"):
        assert metrics[entry] == {"num_examples": 0}
    assert rows(store, manifest, "test") == []
    assert b"accuracy \xc2\xb7 val" in report_of(made)


def test_a_preset_that_costs_accuracy_on_val_is_neither_reported_nor_submitted(
    store: LocalStore, tmp_path: Path
) -> None:
    """Mirrored, another colour leads by more: the view makes every answer wrong."""
    results = with_cells(store, tmp_path, two_sided(60, 120))
    asked = {"tta": "identity,flip-horizontal", "robustness": "none", "batch_size": 8}
    made = judged(store, results, **asked)
    manifest = made["evaluate"]
    metrics = json.loads(manifest.read(store, "metrics.json"))
    assert manifest.facts["tta_views"] == ["identity"]
    assert manifest.facts["tta_reason"].endswith("40 of 40 clean ones lost")
    steps = [(step["view"], step["accuracy"]) for step in metrics["tta"]["steps"]]
    assert steps == [("identity", {"clean": 1.0}), ("flip-horizontal", {"clean": 0.0})]
    assert metrics["test_tta"]["accuracy"] == metrics["val_tta"]["accuracy"] == 1.0
    page = report_of(made).decode()
    assert "40 of 40 clean ones lost" in page
    assert "val, TTA" not in page
    submitted = submit(made, SubmitConfig(), Draft(store, inputs("submit")))
    verification = json.loads(submitted.read(store, "verification.json"))
    assert verification["views"] == ["identity"]
    assert verification["views_reason"] == manifest.facts["tta_reason"]
    assert submitted.facts["views_reason"] == manifest.facts["tta_reason"]
    assert submitted.facts["accuracy"] == 1.0


def test_a_search_finds_the_view_that_helps_and_submits_it(store: LocalStore, tmp_path: Path) -> None:
    """Here the right half tells the class, the left one misleads a little."""
    cells = [cell._replace(label=(cell.label + 1) % 3) for cell in two_sided(40, 120)]
    results = with_cells(store, tmp_path, cells)
    asked = {"tta": "search", "tta_max_views": 3}
    made = judged(store, results, robustness="heavy_mix", batch_size=8, **asked)
    manifest = made["evaluate"]
    metrics = json.loads(manifest.read(store, "metrics.json"))
    choice = metrics["tta"]
    assert choice["asked"] == "search"
    assert 2 <= len(choice["views"]) <= 3
    assert manifest.facts["tta_views"] == choice["views"] == [step["view"] for step in choice["steps"]]
    assert choice["views"][0] == "identity"
    assert choice["interval"][0] > 0
    assert choice["times_slower"] == len(choice["views"])
    for entry, condition in (("val", "clean"), ("val_heavy_mix", "heavy_mix")):
        accuracies = [step["accuracy"][condition] for step in choice["steps"]]
        assert accuracies == sorted(accuracies)
        assert accuracies[0] == metrics[entry]["accuracy"]
        assert accuracies[-1] == metrics[f"{entry}_tta"]["accuracy"]
    assert metrics["val"]["accuracy"] == 0.0
    assert metrics["test_tta"]["accuracy"] == 1.0
    page = report_of(made).decode()
    assert f"the {len(choice['views'])} views that a search on val chose" in page
    submitted = submit(made, SubmitConfig(), Draft(store, inputs("submit")))
    assert json.loads(submitted.read(store, "verification.json"))["views"] == choice["views"]
    assert submitted.facts["accuracy"] == 1.0


def test_what_is_explained_is_config(store: LocalStore, tmp_path: Path) -> None:
    results = parents(store, tmp_path)
    pages = {
        count: report_of(judged(store, results, robustness="none", num_explained=count)) for count in (0, 1)
    }
    assert b"Grad-CAM" not in pages[0]
    assert b"Grad-CAM" in pages[1]
    assert pages[1].count(b"<figure><img") == 3  # one of each class


@pytest.mark.parametrize("field", ["tta", "tta_candidates"])
def test_views_that_there_are_not_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="There is no view 'rotate-91'"):
        EvaluateConfig.model_validate({field: "identity,rotate-91"})
    with pytest.raises(ValueError, match="Did you mean 'search'"):
        EvaluateConfig(tta="serach")


def test_the_former_name_of_the_heavy_mix_is_understood() -> None:
    assert EvaluateConfig.model_validate({"robustness": "heavy"}) == EvaluateConfig(robustness="heavy_mix")


def test_predict_takes_what_changes_the_passes_and_nothing_else() -> None:
    search = EvaluateConfig(tta="search", tta_candidates="flips", robustness_seed=3)
    assert search.passes().views == PRESETS["flips"]
    assert search.passes().robustness_seed == 3
    judging = {"tta_max_views": 2, "bootstrap_resamples": 5, "bootstrap_seed": 1, "num_mistakes": 0}
    assert search.model_copy(update=judging).passes() == search.passes()
    assert EvaluateConfig(tta="flips", robustness_seed=3).passes() == search.passes()
