"""Evaluates a trained model on the val and test splits, clean and spoiled, with and without TTA.

Reads `model.keras` and `history.json` of train, the val and test shards of ingest, the preview of augment.
Writes

    metrics.json          metrics (`tasks/core/run_metrics.py`) with 95 % bootstrap intervals: entries val,
                          val_tta, test, test_tta; val_heavy_mix, val_heavy_mix_tta, test_heavy_mix,
                          test_heavy_mix_tta; val_medmnistc, test_medmnistc; tta, how the views were chosen on
                          val; data_overlap, the images of val and test that models this one builds on were
                          trained on, where it builds on others
    predictions-val.csv   id, label, prob_0 … of the unchanged image, tta_0 … averaged over the views
    predictions-test.csv  the same for test
    report.html           one page for a person

Guarantees: the views that test and a submission are averaged over (`tta_views` of the facts) are, on val,
clean and under the heavy mix where it is measured, no less accurate than the unchanged image. Each view is
predicted once on val.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import EvaluateFacts, IngestFacts, Split, TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.run_metrics import RunMetrics, SplitMetrics
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import exhibits, metrics, robustness
from hemaflow.tasks.evaluate.config import SEARCH, EvaluateConfig, with_identity
from hemaflow.tasks.evaluate.robustness import Robustness
from hemaflow.tasks.evaluate.view_search import IDENTITY, Answers, Choice, Condition, choose, keep_harmless
from hemaflow.tasks.inference.classifier import split_batches
from hemaflow.tasks.inference.views import average, parse_views, predict_each
from hemaflow.tasks.ingest.findings import read_findings, read_pictures
from hemaflow.tasks.records.predictions import write_predictions
from hemaflow.tasks.report import report
from hemaflow.tasks.report.inputs import Examples, Explained, Mistake, ReportInputs

if TYPE_CHECKING:
    import keras

_HISTORY = TypeAdapter(list[EpochRow])


class Predictions(NamedTuple):
    """The predictions of a model for a split, and for its images under the heavy mix where it is measured."""

    split: Split
    ids: list[str]
    labels: NDArray[np.int64]
    """int64[N]."""
    answers: Answers
    """View → probabilities, float32[N, C]."""
    spoiled: Robustness | None

    @property
    def plain(self) -> NDArray[np.float32]:
        """float32[N, C]: the probabilities of the unchanged images."""
        return self.answers[IDENTITY]

    def averaged(self, views: Sequence[str]) -> NDArray[np.float32]:
        """Return the probabilities averaged over views, float32[N, C]."""
        return _averaged(self.answers, views)


def run(parents: Parents, config: EvaluateConfig, draft: Draft) -> Manifest:
    """Predict val, choose the views on it, predict test, measure, and write the report."""
    keras = load_keras()
    classes = IngestFacts.of(parents["ingest"]).classes
    model = keras.saving.load_model(
        parents["train"].path(parents.store, "model.keras"), compile=False, safe_mode=True
    )
    val = predict_split(parents, model, "val", config.asked_views(), config, draft)
    choice = choose_views(val, config)
    test = predict_split(parents, model, "test", with_identity(choice.views), config, draft)
    entries: dict[str, SplitMetrics] = {}
    for predictions in (val, test):
        table = write_predictions(
            predictions.ids, predictions.labels, predictions.plain, predictions.averaged(choice.views)
        )
        draft.put(f"predictions-{predictions.split}.csv", table)
        entries |= measure(predictions, choice.views, classes, config)
    overlap = TrainFacts.of(parents["train"]).data_overlap
    measured = RunMetrics.model_validate(
        {**entries, "tta": choice.entry(config.tta), **({"data_overlap": overlap} if overlap else {})}
    )
    draft.put("metrics.json", json.dumps(measured.document(), indent=1, sort_keys=True).encode())
    shown = test if test.ids else val
    judged, instead = (
        exhibits.Judged(answered.split, answered.ids, answered.labels, answered.averaged(choice.views))
        for answered in (shown, val)
    )
    inputs = _report_inputs(
        parents,
        config,
        measured,
        exhibits.find_mistakes(parents, judged, config.num_mistakes, config.batch_size)
        or exhibits.find_mistakes(parents, instead, config.num_mistakes, config.batch_size),
        shown.spoiled.examples(choice.views) if shown.spoiled else Examples(),
        exhibits.explain(parents, model, judged, config.num_explained, config.batch_size),
    )
    draft.put("report.html", report.render(inputs))
    return EvaluateFacts(
        metrics=measured.summary(),
        tta=config.tta,
        tta_reason=choice.reason,
        tta_views=list(choice.views),
    ).commit(draft)


def predict_split(
    parents: Parents,
    model: keras.Model,
    split: Split,
    views: Sequence[str],
    config: EvaluateConfig,
    draft: Draft,
) -> Predictions:
    """Return the predictions for a split in each view, and for its spoiled images; holds only one batch."""
    ingest = parents["ingest"]
    facts = IngestFacts.of(ingest)
    total = facts.num_examples[split]
    ids: list[str] = []
    labels = np.zeros(total, np.int64)
    answers = np.zeros((len(views), total, len(facts.classes)), np.float32)
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
    """Return the views to average over: found by a search on val, or requested and checked on val."""
    conditions = {"clean": Condition(val.labels, val.answers)}
    if val.spoiled:
        conditions["heavy_mix"] = Condition(val.spoiled.labels, val.spoiled.heavy_mix)
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    if config.tta == SEARCH:
        return choose(conditions, max_views=config.tta_max_views, **sampling)
    return keep_harmless(conditions, parse_views(config.tta), **sampling)


def measure(
    predictions: Predictions, views: Sequence[str], classes: Sequence[str], config: EvaluateConfig
) -> dict[str, SplitMetrics]:
    """Return the entries of the metrics of a split, plain and averaged over views."""
    split, spoiled = predictions.split, predictions.spoiled
    document = _entries(split, predictions.labels, predictions.answers, views, classes, config)
    if spoiled:
        document |= _entries(f"{split}_heavy_mix", spoiled.labels, spoiled.heavy_mix, views, classes, config)
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
) -> dict[str, SplitMetrics]:
    """Return the metrics of the unchanged images and averaged over the views: entries `name`, `name`_tta."""
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    plain, tta = answers[IDENTITY], _averaged(answers, views)
    return {
        name: metrics.evaluate(labels, plain, classes, **sampling),
        f"{name}_tta": metrics.evaluate(labels, tta, classes, **sampling).model_copy(
            update={"flips": metrics.flips(labels, plain, tta)}
        ),
    }


def _averaged(answers: Answers, views: Sequence[str]) -> NDArray[np.float32]:
    return average([answers[view] for view in views])


def _report_inputs(
    parents: Parents,
    config: EvaluateConfig,
    measured: RunMetrics,
    mistakes: Sequence[Mistake],
    examples: Examples,
    explained: Sequence[Explained],
) -> ReportInputs:
    ingest, augment, train = parents["ingest"], parents["augment"], parents["train"]
    manifests = {"ingest": ingest, "augment": augment, "train": train}
    facts = IngestFacts.of(ingest)
    return ReportInputs(
        source=facts.source,
        classes=facts.classes,
        class_counts=facts.class_counts,
        image_size_pixels=facts.image_size_pixels,
        configs={name: manifest.inputs.config for name, manifest in manifests.items()}
        | {"evaluate": config.key_document()},
        keys={name: manifest.key for name, manifest in manifests.items()},
        metrics=measured,
        metric_texts={name: registered.text for name, registered in metrics.METRICS.items()},
        history=_HISTORY.validate_json(train.read(parents.store, "history.json")),
        findings=read_findings(parents.store, ingest),
        num_findings=facts.num_findings,
        preview_png=augment.read(parents.store, "preview.png"),
        mistakes=list(mistakes),
        examples=examples,
        finding_pictures=read_pictures(parents.store, ingest),
        explained=list(explained),
        train_facts=TrainFacts.of(train),
        tta=config.tta,
    )
