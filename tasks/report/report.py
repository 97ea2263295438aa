"""The report: one HTML page that needs nothing else, with everything a person asks of a trained model first.

`render` takes what evaluate has gathered (`ReportInputs`) and gives the page. Guarantees: no script, no
external resource, no date; the same inputs give the same bytes; every text that came from data (class names,
file names, reasons) is escaped. The page's form is in `report.html.j2`, the plots are in `plots.py`, the
words are here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

from hemaflow.tasks.report import plots, robustness_section, views_section
from hemaflow.tasks.report.html import (
    PERCENT_SIGN,
    count,
    environment,
    is_number,
    number,
    overlay,
    percent,
    picture_uri,
    png_uri,
    small,
)
from hemaflow.tasks.report.inputs import Explained, ReportInputs, Spoiled
from hemaflow.tasks.report.notes import note

CODE_FILES = ("report.html.j2",)
SPLIT_NAMES = {"val": "val", "val_tta": "val, TTA", "test": "test", "test_tta": "test, TTA"}

METRIC_NAMES = {
    "accuracy": ("Accuracy", "share of the images named right"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean recall of the classes: rare ones count like common ones",
    ),
    "macro_f1": ("Macro F1", "mean over the classes of F1, which weighs precision and recall"),
    "macro_auc": ("Macro AUC", "how well each class's probability ranks its own images before all others"),
    "ece": ("ECE", "expected calibration error: how far stated certainty is from the share right; 0 is best"),
    "nll": ("NLL", "negative log-likelihood of the true class; 0 is best"),
}
PERCENT_METRICS = {"accuracy", "balanced_accuracy", "macro_f1"}

FINDING_NAMES = {
    "conflicting-label": "the same picture under several labels",
    "contaminant": "one unrelated picture, repeated en masse",
    "empty-class": "a class without images",
    "exact-duplicate": "pixel for pixel the same as another image",
    "ignored-file": "no image of a class",
    "near-duplicate": "almost the same as another image: kept, in the same split",
    "reference-duplicate": "the same as a picture of the reference set, or almost: never learnt from",
    "unreadable": "cannot be read as an image",
    "wrong-shape": "not of the shape of the others",
}

# What a list of findings shows before it is cut in the middle; findings.json holds them all.
FINDINGS_SHOWN, ITEMS_SHOWN = 30, 6


class Cell(NamedTuple):
    """One count of the confusion matrix, ready to print."""

    value: str
    share: str
    """Of the row, that is of the images of the true class."""
    shade: float
    """How strongly to colour it, in 0..1."""
    kind: str


class Shown(NamedTuple):
    """A list cut in the middle."""

    first: list[Any]
    num_left_out: int
    last: list[Any]


def render(inputs: ReportInputs) -> bytes:
    """Return the report as HTML, in UTF-8."""
    template = environment().get_template(CODE_FILES[0])
    choice = inputs.metrics.get("tta", {})
    with_tta = views_section.uses_views(inputs.tta, choice)
    shown = [
        name for name in SPLIT_NAMES if name in inputs.metrics and (with_tta or not name.endswith("_tta"))
    ]
    judged = [name for name in shown if inputs.metrics[name]["num_examples"]] or shown
    detail = next((name for name in ("test_tta", "test", "val_tta", "val") if name in judged), "")
    entry = inputs.metrics.get(detail, {})
    split, suffix = detail.removesuffix("_tta"), "_tta" if detail.endswith("_tta") else ""
    corrupted = inputs.metrics.get(f"{split}_medmnistc", {})
    page = template.render(
        inputs=inputs,
        with_tta=with_tta,
        views=views_section.path(choice),
        detail=detail,
        detail_name=SPLIT_NAMES.get(detail, ""),
        entry=entry,
        summary=_summary(inputs, detail, with_tta),
        split_names=[SPLIT_NAMES[name] for name in shown],
        metric_rows=_metric_rows(inputs.metrics, shown),
        confusion_rows=_confusion_rows(entry.get("confusion") or []),
        confusions=_confusions(inputs, entry.get("confusion") or []),
        robustness=robustness_section.sentences(inputs.metrics, split, suffix),
        scores=robustness_section.scores(inputs.metrics, split, suffix),
        corrupted=corrupted,
        corruption_rows=robustness_section.rows(corrupted),
        severity_means=robustness_section.severity_means(corrupted) if corrupted.get("num_examples") else [],
        recall_rows=robustness_section.recalls(inputs.metrics, split, suffix),
        spoken=robustness_section.spoken,
        heavy_examples=_tiles(inputs.examples.heavy),
        original=picture_uri(small(inputs.examples.original)) if inputs.examples.corruptions else "",
        corrupted_examples=_tiles(inputs.examples.corruptions),
        split=split,
        flips=_flips(inputs.metrics) if with_tta else [],
        explained=_explained(inputs),
        training=_training_plot(inputs),
        reliability=_reliability_plot(entry),
        preview=png_uri(inputs.preview_png) if inputs.preview_png else "",
        mistakes=[(mistake, picture_uri(mistake.image)) for mistake in inputs.mistakes],
        finding_groups=_finding_groups(inputs.findings, inputs.num_findings),
        splits=list(inputs.class_counts),
        configs={stage: _flat(config) for stage, config in inputs.configs.items()},
    )
    return page.encode()


def _summary(inputs: ReportInputs, detail: str, with_tta: bool) -> list[str]:
    """Say in a few sentences what the figures mean, for the split and views that the page is about."""
    entry = inputs.metrics.get(detail)
    if not entry or not entry.get("num_examples"):
        return ["There were no images to judge this model on."]
    num_examples = int(entry["num_examples"])
    wrong = num_examples - sum(row[i] for i, row in enumerate(entry["confusion"]))
    averaged = views_section.spoken(inputs.tta, inputs.metrics.get("tta", {})) if with_tta else ""
    views = f", averaging over {averaged}" if averaged else ""
    learnt = note(inputs.metrics.get("already_learnt", {}), detail.removesuffix("_tta"))
    unseen = "" if learnt else " it had never seen"
    sentences = [
        f"Of {count(num_examples)} images{unseen}, the model names {percent(entry['accuracy'])}"
        f" right{views}, and {count(wrong)} wrong."
    ]
    if learnt:
        sentences.append(learnt)
    low, high = (entry.get("intervals") or {}).get("accuracy") or (None, None)
    if low is not None:
        sentences.append(f"The 95\N{NO-BREAK SPACE}% interval is {percent(low)} to {percent(high)}.")
    confusions = _confusions(inputs, entry["confusion"], most=1)
    for first in confusions:
        sentences.append(
            f"Its most frequent mistake is {first['true']} taken for {first['named']}"
            f" ({first['value']} times, {first['share']} of them)."
        )
    judged = [row for row in entry["per_class"] if row["support"]]
    if len(judged) > 1 and confusions:
        worst = min(judged, key=lambda row: row["recall"])
        sentences.append(f"It finds {worst['class']} least often: {percent(worst['recall'])} of them.")
    return sentences


def _metric_rows(
    metrics: Mapping[str, Any], shown: Sequence[str]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return name and meaning of each metric, and its value and interval for each of the entries shown."""
    rows = []
    for metric, (name, meaning) in METRIC_NAMES.items():
        text = percent if metric in PERCENT_METRICS else number
        cells = []
        for split in shown:
            low, high = (metrics[split].get("intervals") or {}).get(metric) or (None, None)
            interval = f"{text(low).removesuffix(PERCENT_SIGN)} – {text(high)}" if is_number(low) else ""
            cells.append((text(metrics[split].get(metric)), interval))
        rows.append((name, meaning, cells))
    return rows


def _confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Return the cells. A mistake's shade goes with the root of its share: even a few must be seen."""
    rows = []
    for true, row in enumerate(confusion):
        total = sum(row) or 1
        cells = []
        for named, images in enumerate(row):
            share = images / total
            shade = round(0.08 + 0.92 * (share if true == named else share**0.5), 3) if images else 0.0
            kind = ("right" if true == named else "wrong") if images else "zero"
            cells.append(Cell(count(images), percent(share), shade, kind + " strong" * (shade > 0.55)))
        rows.append(cells)
    return rows


def _confusions(
    inputs: ReportInputs, confusion: Sequence[Sequence[int]], most: int = 8
) -> list[dict[str, str]]:
    """Return the most frequent mistakes, the most frequent first."""
    found = [
        (images, true, named)
        for true, row in enumerate(confusion)
        for named, images in enumerate(row)
        if true != named and images
    ]
    found.sort(key=lambda mistake: (-mistake[0], mistake[1], mistake[2]))
    return [
        {
            "value": count(images),
            "true": inputs.classes[true],
            "named": inputs.classes[named],
            "share": percent(images / sum(confusion[true])),
        }
        for images, true, named in found[:most]
    ]


def _flips(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each split, what TTA changed and whether chance would do as much.

    `chance` is the exact two-sided sign test over the images that changed between right and wrong (McNemar,
    Psychometrika 12, 1947, in its exact form): how likely coin flips would divide them at least as unevenly.
    """
    rows = []
    for split in ("val", "test"):
        flips = metrics.get(f"{split}_tta", {}).get("flips")
        if flips:
            right, wrong = int(flips["to_right"]), int(flips["to_wrong"])
            both = right + wrong
            tail = sum(comb(both, k) for k in range(min(right, wrong) + 1))
            rows.append(
                {"split": split, **flips, "net": right - wrong, "chance": min(1.0, 2 * tail / 2**both)}
            )
    return rows


def _training_plot(inputs: ReportInputs) -> str:
    if not inputs.history:
        return ""
    best = inputs.train_facts.get("best_epoch")
    return plots.training_curves(inputs.history, None if best is None else int(best))


def _reliability_plot(entry: Mapping[str, Any]) -> str:
    bins = entry.get("reliability") or {}
    if not any(bins.get("count", ())):
        return ""
    return plots.reliability(bins["confidence"], bins["accuracy"], bins["count"])


def _finding_groups(
    findings: Sequence[Mapping[str, Any]], num_findings: Mapping[str, int]
) -> list[dict[str, Any]]:
    groups = []
    kinds = sorted({*num_findings, *(str(finding["kind"]) for finding in findings)})
    for kind in kinds:
        found = [finding for finding in findings if finding["kind"] == kind]
        rows = [{"of": "", **finding, "shown": _cut(finding["items"], ITEMS_SHOWN)} for finding in found]
        num = int(num_findings.get(kind, len(found)))
        if num or found:
            groups.append(
                {
                    "kind": kind,
                    "meaning": FINDING_NAMES.get(kind, ""),
                    "number": num,
                    "num_items": sum(len(finding["items"]) for finding in found),
                    "shown": _cut(rows, FINDINGS_SHOWN),
                }
            )
    return groups


def _cut(items: Sequence[Any], most: int) -> Shown:
    """Return all of a list, or its first and last ones and how many are left out between them."""
    if len(items) <= most:
        return Shown(list(items), 0, [])
    tail = most // 2
    return Shown(list(items[: most - tail]), len(items) - most, list(items[len(items) - tail :]))


def _flat(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))
        for name, value in config.items()
    ]


def _tiles(examples: Sequence[Spoiled]) -> list[tuple[Spoiled, str]]:
    return [(example, picture_uri(small(example.image))) for example in examples]


def _explained(inputs: ReportInputs) -> list[tuple[str, list[tuple[Explained, str, str]]]]:
    """Return, class by class, what is explained: the case, its image and its overlay."""
    groups: dict[int, list[tuple[Explained, str, str]]] = {}
    for case in inputs.explained:
        pictures = (case.image, overlay(case.image, case.heat))
        image, covered = (picture_uri(small(picture)) for picture in pictures)
        groups.setdefault(case.label, []).append((case, image, covered))
    return [(inputs.classes[label], cases) for label, cases in sorted(groups.items())]
