"""Renders the report: one page for a person about what the stages found, for all runs with these results.

Runs no network and loads no TensorFlow. Reads the findings of ingest with their pictures, the preview of
augment, `history.json` of train, the pictures of predict, the metrics and the mistakes of evaluate. Writes

    report.html   the page, without the details of a run (`tasks/report/run_details.py`)
"""

from __future__ import annotations

from pydantic import TypeAdapter

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import EvaluateFacts, IngestFacts, PredictFacts, TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.run_metrics import RunMetrics
from hemaflow.tasks.core.stage import Parents, StageConfig
from hemaflow.tasks.evaluate import metrics
from hemaflow.tasks.evaluate.mistakes import read_mistakes
from hemaflow.tasks.ingest import findings
from hemaflow.tasks.predict import pictures
from hemaflow.tasks.report import report
from hemaflow.tasks.report.inputs import ReportInputs
from hemaflow.tasks.report.run_details import PAGE_NAME, PARENTS

_HISTORY = TypeAdapter(list[EpochRow])


def run(parents: Parents, config: StageConfig, draft: Draft) -> Manifest:
    """Write the page."""
    draft.put(PAGE_NAME, report.render(_inputs(parents)))
    return draft.commit()


def _inputs(parents: Parents) -> ReportInputs:
    """Return what the page is rendered from; reads no more of an object than is shown."""
    store = parents.store
    ingest, augment, train, predict, evaluate = (parents[name] for name in PARENTS)
    images, evaluated = IngestFacts.of(ingest), EvaluateFacts.of(evaluate)
    all_views = PredictFacts.of(predict).views
    examples, explained = pictures.read_pictures(store, predict, all_views, evaluated.tta_views)
    return ReportInputs(
        source=images.source,
        classes=images.classes,
        class_counts=images.class_counts,
        image_size_pixels=images.image_size_pixels,
        metrics=RunMetrics.model_validate_json(evaluate.read(store, "metrics.json")),
        metric_texts={name: registered.text for name, registered in metrics.METRICS.items()},
        history=_HISTORY.validate_json(train.read(store, "history.json")),
        findings=findings.read_findings(store, ingest),
        num_findings=images.num_findings,
        preview_png=augment.read(store, "preview.png"),
        mistakes=read_mistakes(store, evaluate),
        train_facts=TrainFacts.of(train),
        tta=evaluated.tta,
        examples=examples,
        finding_pictures=findings.read_pictures(store, ingest),
        explained=explained,
    )
