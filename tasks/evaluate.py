"""Judge a trained model on the val and test splits, clean and spoiled, plain and with test-time augmentation.

Reads `model.keras` and `history.json` of train, the val and test shards of ingest, the preview of augment.
Writes

    metrics.json          entries val, val_tta, test, test_tta: metrics with 95 % bootstrap intervals;
                          val_heavy, val_heavy_tta, test_heavy, test_heavy_tta: the same of the heavy mix;
                          val_medmnistc, test_medmnistc: the corruptions of MedMNIST-C (tasks/robustness.py)
    predictions-val.csv   id, label, prob_0 … of the image as it is, tta_0 … averaged over the views
    predictions-test.csv  the same for test
    report.html           one page for a person
"""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, field_validator

from infra.draft import Draft
from infra.manifest import Manifest
from tasks import metrics, report, robustness
from tasks.records import read_batches
from tasks.report_robustness import Examples
from tasks.stage import Parents, StageConfig
from tasks.views import parse_views, predict

EVALUATED = ("val", "test")


class EvaluateConfig(StageConfig):
    """All that changes the predictions and the report."""

    tta: str = "flips"
    """A preset of views (none, flips, dihedral, seed), or views divided by commas."""
    batch_size: PositiveInt = 256
    """Images at once on the device; the submission uses the same."""
    bootstrap_resamples: PositiveInt = 1000
    """Resamples of the intervals."""
    bootstrap_seed: NonNegativeInt = 0
    """Of the resamples."""
    num_mistakes: NonNegativeInt = 24
    """How many of the most confident mistakes the report shows."""
    robustness: Literal["none", "heavy", "full"] = "full"
    """What is measured of spoiled images: nothing, the heavy mix, or that and the corruptions of MedMNIST-C.
    `full` takes 56 more passes over each split, and one more for each view."""
    robustness_images: NonNegativeInt = 0
    """How many images of each split are spoiled, drawn by the seed; 0 for all."""
    robustness_seed: NonNegativeInt = 0
    """Of that draw, of the heavy mix and of the corruptions."""

    @field_validator("tta")
    @classmethod
    def _known_views(cls, tta: str) -> str:
        parse_views(tta)
        return tta


class Predictions(NamedTuple):
    """What the model says of a split."""

    ids: list[str]
    labels: NDArray[np.int64]
    plain: NDArray[np.float32]
    tta: NDArray[np.float32]
    mistakes: list[report.Mistake]


def run(parents: Parents, config: EvaluateConfig, draft: Draft) -> Manifest:
    """Predict both splits, measure, and write the report."""
    import keras

    ingest, train = parents["ingest"], parents["train"]
    classes: list[str] = ingest.facts["classes"]
    views = parse_views(config.tta)
    model = keras.saving.load_model(train.path(parents.store, "model.keras"), compile=False, safe_mode=True)
    document: dict[str, Any] = {}
    mistakes: list[report.Mistake] = []
    examples = Examples()
    for split in EVALUATED:
        predictions = predict_split(parents, model, split, config, draft)
        draft.put(f"predictions-{split}.csv", write_predictions(predictions, len(classes)))
        document |= _entries(split, predictions.labels, predictions.plain, predictions.tta, classes, config)
        mistakes = predictions.mistakes or mistakes  # those of test, where it has any
        if config.robustness != "none":
            spoiled = robustness.measure(
                parents,
                model,
                split,
                views,
                batch_size=config.batch_size,
                num_images=config.robustness_images,
                seed=config.robustness_seed,
                medmnist_c=config.robustness == "full",
                progress=draft.progress,
            )
            document |= _entries(
                f"{split}_heavy", spoiled.labels, spoiled.heavy, spoiled.heavy_tta, classes, config
            )
            if config.robustness == "full":
                document[f"{split}_medmnistc"] = robustness.evaluate_medmnist_c(
                    spoiled.labels,
                    spoiled.named,
                    classes,
                    resamples=config.bootstrap_resamples,
                    seed=config.bootstrap_seed,
                )
            examples = spoiled.examples if spoiled.examples.heavy else examples
    draft.put("metrics.json", json.dumps(document, indent=1, sort_keys=True).encode())
    draft.put("report.html", report.render(_report_inputs(parents, config, document, mistakes, examples)))
    details = ("per_class", "confusion", "reliability", "corruptions")
    return draft.commit(
        metrics={
            entry: {name: value for name, value in values.items() if name not in details}
            for entry, values in document.items()
        },
        tta=config.tta,
        tta_views=list(views),
    )


def predict_split(
    parents: Parents, model: Any, split: str, config: EvaluateConfig, draft: Draft
) -> Predictions:
    """Return the predictions of a split, batch by batch; only the worst mistakes' images are held."""
    ingest = parents["ingest"]
    size, num_classes = int(ingest.facts["image_size_pixels"]), len(ingest.facts["classes"])
    total = int(ingest.facts["num_examples"][split])
    views = parse_views(config.tta)
    ids: list[str] = []
    labels: list[int] = []
    plain = np.zeros((total, num_classes), np.float32)
    tta = np.zeros((total, num_classes), np.float32)
    worst: list[tuple[float, int, report.Mistake]] = []
    shards = [parents.path(stored) for stored in ingest.matching(f"{split}-")]
    batches = read_batches(shards, size, num_classes, config.batch_size) if total else []
    for batch in batches:
        images, truth = batch["image"].numpy(), batch["label"].numpy().argmax(1)
        rows = slice(len(ids), len(ids) + len(images))
        plain[rows] = predict(model, images, ("identity",), config.batch_size)
        tta[rows] = (
            plain[rows] if views == ("identity",) else predict(model, images, views, config.batch_size)
        )
        for index, (image_id, label) in enumerate(zip(batch["id"].numpy(), truth, strict=True)):
            row = len(ids)
            ids.append(image_id.decode())
            labels.append(int(label))
            named = int(tta[row].argmax())
            if named != label and config.num_mistakes:
                mistake = report.Mistake(
                    ids[-1], split, images[index], int(label), named, float(tta[row, named])
                )
                keep = heapq.heappush if len(worst) < config.num_mistakes else heapq.heappushpop
                keep(worst, (mistake.probability, -row, mistake))
        draft.progress(len(ids), total, f"{split} images")
    ordered = [mistake for _, _, mistake in sorted(worst, key=lambda entry: (-entry[0], -entry[1]))]
    return Predictions(ids, np.array(labels, np.int64), plain, tta, ordered)


def write_predictions(predictions: Predictions, num_classes: int) -> bytes:
    """Return predictions as CSV; nine digits give every float32 back exactly."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    numbers = range(num_classes)
    writer.writerow(["id", "label", *(f"prob_{k}" for k in numbers), *(f"tta_{k}" for k in numbers)])
    for row, image_id in enumerate(predictions.ids):
        values = [*predictions.plain[row], *predictions.tta[row]]
        writer.writerow([image_id, predictions.labels[row], *(f"{value:.9g}" for value in values)])
    return text.getvalue().encode()


def _entries(
    name: str,
    labels: NDArray[np.int64],
    plain: NDArray[np.float32],
    tta: NDArray[np.float32],
    classes: Sequence[str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Return the metrics of images as they are and averaged over the views: entries `name` and `name`_tta."""
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    return {
        name: metrics.evaluate(labels, plain, classes, **sampling),
        f"{name}_tta": {
            **metrics.evaluate(labels, tta, classes, **sampling),
            "flips": metrics.flips(labels, plain, tta),
        },
    }


def _report_inputs(
    parents: Parents,
    config: EvaluateConfig,
    document: dict[str, Any],
    mistakes: Sequence[report.Mistake],
    examples: Examples,
) -> report.ReportInputs:
    ingest, augment, train = parents["ingest"], parents["augment"], parents["train"]
    manifests = {"ingest": ingest, "augment": augment, "train": train}
    return report.ReportInputs(
        source=ingest.facts["source"],
        classes=ingest.facts["classes"],
        class_counts=ingest.facts["class_counts"],
        image_size_pixels=ingest.facts["image_size_pixels"],
        configs={name: manifest.inputs.config for name, manifest in manifests.items()}
        | {"evaluate": config.key_document()},
        keys={name: manifest.key for name, manifest in manifests.items()},
        metrics=document,
        history=json.loads(train.read(parents.store, "history.json")),
        findings=json.loads(ingest.read(parents.store, "findings.json")),
        num_findings=ingest.facts["num_findings"],
        preview_png=augment.read(parents.store, "preview.png"),
        mistakes=list(mistakes),
        examples=examples,
        train_facts=train.facts,
        tta=config.tta,
    )
