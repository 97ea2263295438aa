"""Judge a trained model on the val and test splits, clean and spoiled, plain and with test-time augmentation.

Reads `model.keras` and `history.json` of train, the val and test shards of ingest, the preview of augment.
Writes

    metrics.json          entries val, val_tta, test, test_tta: metrics with 95 % bootstrap intervals;
                          val_heavy, val_heavy_tta, test_heavy, test_heavy_tta: the same of the heavy mix;
                          val_medmnistc, test_medmnistc: the corruptions of MedMNIST-C (robustness.py);
                          tta: how the views were chosen on val (view_search.py);
                          already_learnt: images of val and test that models of other runs, which this one
                          began from or is made of, learnt from (see train); where there are such models
    predictions-val.csv   id, label, prob_0 … of the image as it is, tta_0 … averaged over the views
    predictions-test.csv  the same for test
    report.html           one page for a person

Guarantees: the views that test is averaged over, and that a submission takes (`tta_views` of the result's
facts), are on val, clean and under the heavy mix where it is measured, no less accurate than the image alone,
whatever was asked for. Val is asked about each view once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import exhibits, metrics, robustness
from hemaflow.tasks.evaluate.config import SEARCH, EvaluateConfig, with_identity
from hemaflow.tasks.evaluate.robustness import Robustness
from hemaflow.tasks.evaluate.view_search import IDENTITY, Answers, Choice, Condition, choose, keep_harmless
from hemaflow.tasks.inference.classifier import split_batches
from hemaflow.tasks.inference.views import average, parse_views, predict_each
from hemaflow.tasks.records.predictions import write_predictions
from hemaflow.tasks.report import inputs, report
from hemaflow.tasks.report.inputs import Examples, Explained

EVALUATED = ("val", "test")


DETAILS = ("per_class", "confusion", "reliability", "corruptions")
"""What of an entry of the metrics is in metrics.json alone."""


class Predictions(NamedTuple):
    """What the model says of a split, and of its images under the heavy mix where that is measured."""

    split: str
    ids: list[str]
    labels: NDArray[np.int64]
    """int64[N]."""
    answers: Answers
    spoiled: Robustness | None

    @property
    def plain(self) -> NDArray[np.float32]:
        """float32[N, C]: the probabilities of the images as they are."""
        return self.answers[IDENTITY]

    def averaged(self, views: Sequence[str]) -> NDArray[np.float32]:
        """Return the probabilities averaged over views, float32[N, C]."""
        return _averaged(self.answers, views)


def run(parents: Parents, config: EvaluateConfig, draft: Draft) -> Manifest:
    """Predict val, choose the views by it, predict test, measure, and write the report."""
    keras = load_keras()
    classes: list[str] = parents["ingest"].facts["classes"]
    model = keras.saving.load_model(
        parents["train"].path(parents.store, "model.keras"), compile=False, safe_mode=True
    )
    val = predict_split(parents, model, "val", config.asked_views(), config, draft)
    choice = choose_views(val, config)
    test = predict_split(parents, model, "test", with_identity(choice.views), config, draft)
    document: dict[str, Any] = {"tta": {"asked": config.tta, **choice.document()}}
    if learnt := parents["train"].facts.get("data_overlap"):
        document["already_learnt"] = learnt
    for predictions in (val, test):
        table = write_predictions(
            predictions.ids, predictions.labels, predictions.plain, predictions.averaged(choice.views)
        )
        draft.put(f"predictions-{predictions.split}.csv", table)
        document |= measure(predictions, choice.views, classes, config)
    draft.put("metrics.json", json.dumps(document, indent=1, sort_keys=True).encode())
    shown = test if test.ids else val
    judged, instead = (
        exhibits.Judged(answered.split, answered.ids, answered.labels, answered.averaged(choice.views))
        for answered in (shown, val)
    )
    inputs = _report_inputs(
        parents,
        config,
        document,
        exhibits.find_mistakes(parents, judged, config.num_mistakes, config.batch_size)
        or exhibits.find_mistakes(parents, instead, config.num_mistakes, config.batch_size),
        shown.spoiled.examples(choice.views) if shown.spoiled else Examples(),
        exhibits.explain(parents, model, judged, config.num_explained, config.batch_size),
    )
    draft.put("report.html", report.render(inputs))
    return draft.commit(
        metrics={
            entry: {name: value for name, value in values.items() if name not in DETAILS}
            for entry, values in document.items()
            if entry != "tta"
        },
        tta=config.tta,
        tta_reason=choice.reason,
        tta_views=list(choice.views),
    )


def predict_split(
    parents: Parents, model: Any, split: str, views: Sequence[str], config: EvaluateConfig, draft: Draft
) -> Predictions:
    """Return what the model says of a split in each view, and of its spoiled images; no image is held."""
    ingest = parents["ingest"]
    total = int(ingest.facts["num_examples"][split])
    ids: list[str] = []
    labels = np.zeros(total, np.int64)
    answers = np.zeros((len(views), total, len(ingest.facts["classes"])), np.float32)
    for batch in split_batches(parents, ingest, split, config.batch_size):
        rows = slice(len(ids), len(ids) + len(batch.ids))
        labels[rows] = batch.labels
        answers[:, rows] = predict_each(model, batch.images, views, config.batch_size)
        ids += batch.ids
        draft.progress(len(ids), total, f"{split} images")
    spoiled = None
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
    return Predictions(split, ids, labels, dict(zip(views, answers, strict=True)), spoiled)


def choose_views(val: Predictions, config: EvaluateConfig) -> Choice:
    """Return the views to average over: searched for, or asked for and held against val."""
    conditions = {"clean": Condition(val.labels, val.answers)}
    if val.spoiled:
        conditions["heavy"] = Condition(val.spoiled.labels, val.spoiled.heavy)
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    if config.tta == SEARCH:
        return choose(conditions, max_views=config.tta_max_views, **sampling)
    return keep_harmless(conditions, parse_views(config.tta), **sampling)


def measure(
    predictions: Predictions, views: Sequence[str], classes: Sequence[str], config: EvaluateConfig
) -> dict[str, Any]:
    """Return the entries of the metrics of a split, plain and averaged over views."""
    split, spoiled = predictions.split, predictions.spoiled
    document = _entries(split, predictions.labels, predictions.answers, views, classes, config)
    if spoiled:
        document |= _entries(f"{split}_heavy", spoiled.labels, spoiled.heavy, views, classes, config)
    if spoiled and config.robustness == "full":
        document[f"{split}_medmnistc"] = robustness.evaluate_medmnist_c(
            spoiled.labels,
            spoiled.named,
            classes,
            resamples=config.bootstrap_resamples,
            seed=config.bootstrap_seed,
        )
    return document


def _entries(
    name: str,
    labels: NDArray[np.int64],
    answers: Answers,
    views: Sequence[str],
    classes: Sequence[str],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Return the metrics of images as they are and averaged over the views: entries `name` and `name`_tta."""
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    plain, tta = answers[IDENTITY], _averaged(answers, views)
    return {
        name: metrics.evaluate(labels, plain, classes, **sampling),
        f"{name}_tta": {
            **metrics.evaluate(labels, tta, classes, **sampling),
            "flips": metrics.flips(labels, plain, tta),
        },
    }


def _averaged(answers: Answers, views: Sequence[str]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = average([answers[view] for view in views])
    return probabilities


def _report_inputs(
    parents: Parents,
    config: EvaluateConfig,
    document: Mapping[str, Any],
    mistakes: Sequence[inputs.Mistake],
    examples: Examples,
    explained: Sequence[Explained],
) -> inputs.ReportInputs:
    ingest, augment, train = parents["ingest"], parents["augment"], parents["train"]
    manifests = {"ingest": ingest, "augment": augment, "train": train}
    return inputs.ReportInputs(
        source=ingest.facts["source"],
        classes=ingest.facts["classes"],
        class_counts=ingest.facts["class_counts"],
        image_size_pixels=ingest.facts["image_size_pixels"],
        configs={name: manifest.inputs.config for name, manifest in manifests.items()}
        | {"evaluate": config.key_document()},
        keys={name: manifest.key for name, manifest in manifests.items()},
        metrics=dict(document),
        history=json.loads(train.read(parents.store, "history.json")),
        findings=json.loads(ingest.read(parents.store, "findings.json")),
        num_findings=ingest.facts["num_findings"],
        preview_png=augment.read(parents.store, "preview.png"),
        mistakes=list(mistakes),
        examples=examples,
        explained=list(explained),
        train_facts=train.facts,
        tta=config.tta,
    )
