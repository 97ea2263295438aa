"""Judges a trained model by the probabilities that predict kept: val and test, clean and spoiled, with TTA.

Runs no network and loads no TensorFlow. Reads the probabilities of predict, the overlap of the data from the
facts of train, and from the shards of ingest the pictures of the mistakes. Writes

    metrics.json          metrics (`tasks/core/run_metrics.py`) with 95 % bootstrap intervals: entries val,
                          val_tta, test, test_tta; val_heavy_mix, val_heavy_mix_tta, test_heavy_mix,
                          test_heavy_mix_tta; val_medmnistc, test_medmnistc; tta, how the views were chosen on
                          val; data_overlap, the images of val and test that models this one builds on were
                          trained on, where it builds on others
    predictions-val.csv   id, label, prob_0 … of the unchanged image, tta_0 … averaged over the views
    predictions-test.csv  the same for test
    mistakes.npz          the most confident mistakes (`tasks/evaluate/mistakes.py`)

Guarantees: the views that test and a submission are averaged over (`tta_views` of the facts) are, on val,
clean and under the heavy mix where it is measured, no less accurate than the unchanged image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import EvaluateFacts, IngestFacts, PredictFacts, TrainFacts
from hemaflow.tasks.core.run_metrics import RunMetrics, SplitMetrics
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.evaluate import metrics
from hemaflow.tasks.evaluate.config import SEARCH, EvaluateConfig
from hemaflow.tasks.evaluate.mistakes import NAME, Judged, find_mistakes, write_mistakes
from hemaflow.tasks.evaluate.robustness import evaluate_medmnist_c
from hemaflow.tasks.evaluate.view_search import Answers, Choice, Condition, choose, keep_harmless
from hemaflow.tasks.inference.views import average, parse_views
from hemaflow.tasks.predict.config import IDENTITY
from hemaflow.tasks.predict.probabilities import SplitPredictions, load_predictions
from hemaflow.tasks.records.predictions import write_predictions


def run(parents: Parents, config: EvaluateConfig, draft: Draft) -> Manifest:
    """Choose the views on val, measure val and test, and keep what the report shows of single images."""
    classes = IngestFacts.of(parents["ingest"]).classes
    val, test = (load_predictions(parents.store, parents["predict"], split) for split in ("val", "test"))
    draft.progress(0, 3, "choosing views on val")
    choice = choose_views(val, config)
    entries: dict[str, SplitMetrics] = {}
    averaged: dict[str, NDArray[np.float32]] = {}
    for number, predictions in enumerate((val, test), start=1):
        draft.progress(number, 3, f"measuring {predictions.split}")
        averaged[predictions.split] = _averaged(predictions.by_view(predictions.clean), choice.views)
        table = write_predictions(
            predictions.ids, predictions.labels, predictions.unchanged, averaged[predictions.split]
        )
        draft.put(f"predictions-{predictions.split}.csv", table)
        entries |= measure(predictions, choice.views, classes, config)
    overlap = TrainFacts.of(parents["train"]).data_overlap
    measured = RunMetrics.model_validate(
        {**entries, "tta": choice.entry(config.tta), **({"data_overlap": overlap} if overlap else {})}
    )
    draft.put("metrics.json", json.dumps(measured.document(), indent=1, sort_keys=True).encode())
    shown = test if PredictFacts.of(parents["predict"]).shown_split == "test" else val
    judged, instead = (
        Judged(each.split, each.ids, each.labels, averaged[each.split]) for each in (shown, val)
    )
    mistakes = find_mistakes(parents, judged, config.num_mistakes, config.batch_size) or find_mistakes(
        parents, instead, config.num_mistakes, config.batch_size
    )
    draft.put(NAME, write_mistakes(mistakes))
    draft.progress(3, 3, "measured")
    return EvaluateFacts(
        metrics=measured.summary(),
        tta=config.tta,
        tta_reason=choice.reason,
        tta_views=list(choice.views),
    ).commit(draft)


def choose_views(val: SplitPredictions, config: EvaluateConfig) -> Choice:
    """Return the views to average over: found by a search on val, or requested and checked on val."""
    conditions = {"clean": Condition(val.labels, val.by_view(val.clean))}
    if val.spoiled:
        conditions["heavy_mix"] = Condition(val.spoiled.labels, val.by_view(val.spoiled.heavy_mix))
    sampling = {"resamples": config.bootstrap_resamples, "seed": config.bootstrap_seed}
    if config.tta == SEARCH:
        return choose(conditions, max_views=config.tta_max_views, **sampling)
    return keep_harmless(conditions, parse_views(config.tta), **sampling)


def measure(
    predictions: SplitPredictions, views: Sequence[str], classes: Sequence[str], config: EvaluateConfig
) -> dict[str, SplitMetrics]:
    """Return the entries of the metrics of a split, plain and averaged over views."""
    split, spoiled = predictions.split, predictions.spoiled
    answers = predictions.by_view(predictions.clean)
    document = _entries(split, predictions.labels, answers, views, classes, config)
    if spoiled:
        answers = predictions.by_view(spoiled.heavy_mix)
        document |= _entries(f"{split}_heavy_mix", spoiled.labels, answers, views, classes, config)
    if spoiled and spoiled.medmnistc is not None:
        document[f"{split}_medmnistc"] = evaluate_medmnist_c(
            spoiled.labels,
            spoiled.medmnistc.argmax(-1),
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
