"""The report: one self-contained HTML page about a trained model.

`render` takes what the stages found (`ReportInputs`) and returns the page, with two places for the details of
a run (`tasks/report/run_details.py`). Guarantees: no script, no external resource, no date; the same inputs
give the same bytes; every text from data (class names, file names, reasons) is escaped. The layout is in
`report.html.j2`, the plots are in `plots.py`, the sentences are here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Generic, NamedTuple, TypeVar

from hemaflow.tasks.core.run_metrics import Flips, RunMetrics, SplitMetrics
from hemaflow.tasks.evaluate.metrics import MetricText
from hemaflow.tasks.predict.pictures import Explained, Spoiled
from hemaflow.tasks.report import plots, robustness_section, views_section
from hemaflow.tasks.report.html import (
    PERCENT_SIGN,
    count,
    environment,
    number,
    overlay,
    percent,
    picture_uri,
    png_uri,
    small,
)
from hemaflow.tasks.report.inputs import ReportInputs
from hemaflow.tasks.report.notes import note
from hemaflow.tasks.report.run_details import RUN_DETAILS, RUN_LINE
from hemaflow.tasks.sources.base import Finding

Item = TypeVar("Item")

CODE_FILES = ("report.html.j2",)
SPLIT_NAMES = {"val": "val", "val_tta": "val, TTA", "test": "test", "test_tta": "test, TTA"}

FINDING_NAMES = {
    "ambiguous-folders": "folders that may be classes or something above the classes",
    "assumed-class-names": "names of classes that the source does not give",
    "class-spelling": "one class in several spellings",
    "link": "a link that was not followed",
    "noise-picture": "noise: hardly a cell",
    "plain-picture": "of one colour: hardly a cell",
    "shallow-bits": "fewer bits than its file has: brightened",
    "split-folders": "folders that are called like splits, and read as such",
    "unjudged-class": "a class without images in val and test: no metric judges it",
    "unknown-rotation": "its rotation cannot be read: kept as it lies",
    "unreadable-name": "a file whose name is not UTF-8",
    "untrained-class": "a class without training images",
    "conflicting-label": "the same picture under several labels",
    "contaminant": "one unrelated picture, repeated en masse",
    "empty-class": "a class without images",
    "exact-duplicate": "pixel for pixel the same as another image",
    "ignored-file": "no image of a class",
    "near-duplicate": "almost the same as another image: kept, in the same split",
    "reference-duplicate": "the same as a picture of the reference set, or almost: not used for training",
    "unreadable": "cannot be read as an image",
    "wrong-shape": "not of the shape of the others",
}

# Maximum length of lists before they are cut in the middle; `hemaflow findings RUN` lists them all.
FINDINGS_SHOWN, ITEMS_SHOWN = 30, 6


class Cell(NamedTuple):
    """One count of the confusion matrix, ready to print."""

    value: str
    share: str
    """Share of the row, that is of the images of the true class."""
    shade: float
    """Opacity of its colour, in 0..1."""
    kind: str


class Shown(NamedTuple, Generic[Item]):
    """A list cut in the middle."""

    first: list[Item]
    num_left_out: int
    last: list[Item]


class ShownFinding(NamedTuple):
    """A finding, ready to print."""

    action: str
    reason: str
    shown: Shown[str]
    """The images that it concerns."""


class FindingGroup(NamedTuple):
    """All findings of one kind."""

    kind: str
    meaning: str
    number: int
    num_items: int
    """Images that the findings concern."""
    shown: Shown[ShownFinding]


class FlipRow(NamedTuple):
    """What TTA changed on one split."""

    split: str
    flips: Flips
    net: int
    """Images gained."""
    chance: float
    """p of the exact two-sided sign test."""


def render(inputs: ReportInputs) -> bytes:
    """Return the report as HTML, in UTF-8."""
    template = environment().get_template(CODE_FILES[0])
    choice = inputs.metrics.tta
    with_tta = views_section.uses_views(inputs.tta, choice)
    shown = {
        name: entry
        for name in SPLIT_NAMES
        if (entry := inputs.metrics.entry(name)) and (with_tta or not name.endswith("_tta"))
    }
    judged = [name for name, entry in shown.items() if entry.num_examples] or list(shown)
    detail = next((name for name in ("test_tta", "test", "val_tta", "val") if name in judged), "")
    entry = inputs.metrics.entry(detail)
    confusion = entry.confusion if entry else []
    split, suffix = detail.removesuffix("_tta"), "_tta" if detail.endswith("_tta") else ""
    corrupted = inputs.metrics.measured().get(f"{split}_medmnistc")
    page = template.render(
        inputs=inputs,
        with_tta=with_tta,
        views=views_section.path(choice),
        detail=detail,
        detail_name=SPLIT_NAMES.get(detail, ""),
        entry=entry,
        summary=_summary(inputs, detail, with_tta),
        split_names=[SPLIT_NAMES[name] for name in shown],
        metric_rows=_metric_rows(inputs.metric_texts, list(shown.values())),
        confusion_rows=_confusion_rows(confusion),
        confusions=_confusions(inputs, confusion),
        robustness=robustness_section.sentences(inputs.metrics, split, suffix),
        scores=robustness_section.scores(inputs.metrics, split, suffix),
        corrupted=corrupted,
        corruption_rows=robustness_section.rows(corrupted) if corrupted else [],
        severity_means=robustness_section.severity_means(corrupted) if corrupted else [],
        recall_rows=robustness_section.recalls(inputs.metrics, split, suffix),
        display_name=robustness_section.display_name,
        heavy_mix_examples=_tiles(inputs.examples.heavy_mix),
        original=picture_uri(small(inputs.examples.original)) if inputs.examples.corruptions else "",
        corrupted_examples=_tiles(inputs.examples.corruptions),
        split=split,
        flips=_flips(inputs.metrics) if with_tta else [],
        explained=_explained(inputs),
        training=plots.training_curves(inputs.history, inputs.train_facts.best_epoch)
        if inputs.history
        else "",
        reliability=_reliability_plot(entry) if entry else "",
        preview=png_uri(inputs.preview_png) if inputs.preview_png else "",
        mistakes=[(mistake, picture_uri(mistake.image)) for mistake in inputs.mistakes],
        finding_groups=_finding_groups(inputs.findings, inputs.num_findings),
        finding_pictures={
            kind: [(name, picture_uri(small(picture))) for name, picture in shown.items()]
            for kind, shown in inputs.finding_pictures.items()
        },
        splits=list(inputs.class_counts),
        run_line=RUN_LINE,
        run_details=RUN_DETAILS,
    )
    return page.encode()


def _summary(inputs: ReportInputs, detail: str, with_tta: bool) -> list[str]:
    """Say in a few sentences what the figures mean, for the split and views that the page is about."""
    entry = inputs.metrics.entry(detail)
    if not entry or not entry.num_examples:
        return ["There were no images to judge this model on."]
    num_examples = entry.num_examples
    wrong = num_examples - sum(row[i] for i, row in enumerate(entry.confusion))
    averaged = views_section.describe(inputs.tta, inputs.metrics.tta) if with_tta else ""
    views = f", averaging over {averaged}" if averaged else ""
    overlap = note(inputs.metrics.data_overlap, detail.removesuffix("_tta"))
    unseen = "" if overlap else " it had never seen"
    sentences = [
        f"Of {count(num_examples)} images{unseen}, the model names {percent(entry.accuracy)}"
        f" right{views}, and {count(wrong)} wrong."
    ]
    if overlap:
        sentences.append(overlap)
    if interval := entry.intervals.get("accuracy"):
        low, high = map(percent, interval)
        sentences.append(f"The 95\N{NO-BREAK SPACE}% interval is {low} to {high}.")
    confusions = _confusions(inputs, entry.confusion, most=1)
    for first in confusions:
        sentences.append(
            f"Its most frequent mistake is {first['true']} taken for {first['named']}"
            f" ({first['value']} times, {first['share']} of them)."
        )
    judged = [row for row in entry.per_class if row.support]
    if len(judged) > 1 and confusions:
        worst = min(judged, key=lambda row: row.recall)
        sentences.append(f"It finds {worst.name} least often: {percent(worst.recall)} of them.")
    return sentences


def _metric_rows(
    metric_texts: Mapping[str, MetricText], entries: Sequence[SplitMetrics]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return title and meaning of each metric, and its value and interval in each entry."""
    rows = []
    for name, text in metric_texts.items():
        form = percent if text.percent else number
        cells = []
        for entry in entries:
            low, high = map(form, entry.intervals.get(name, (None, None)))
            interval = f"{low.removesuffix(PERCENT_SIGN)} – {high}" if name in entry.intervals else ""
            cells.append((form(entry.score(name)), interval))
        rows.append((text.title, text.meaning, cells))
    return rows


def _confusion_rows(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Return the cells. The shade of a mistake is the root of its share: even a few must be visible."""
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


def _flips(metrics: RunMetrics) -> list[FlipRow]:
    """Return what TTA changed on each split, and whether chance explains it.

    The test is the exact two-sided sign test over the images that changed between right and wrong (McNemar,
    Psychometrika 12, 1947, in its exact form): how likely coin flips would divide them at least as unevenly.
    """
    rows = []
    for split in ("val", "test"):
        entry = metrics.entry(f"{split}_tta")
        if entry and entry.flips:
            right, wrong = entry.flips.to_right, entry.flips.to_wrong
            both = right + wrong
            tail = sum(comb(both, k) for k in range(min(right, wrong) + 1))
            rows.append(FlipRow(split, entry.flips, right - wrong, min(1.0, 2 * tail / 2**both)))
    return rows


def _reliability_plot(entry: SplitMetrics) -> str:
    if not entry.reliability or not any(entry.reliability.count):
        return ""
    return plots.reliability(entry.reliability)


def _finding_groups(findings: Sequence[Finding], num_findings: Mapping[str, int]) -> list[FindingGroup]:
    groups = []
    for kind in sorted({*num_findings, *(finding.kind for finding in findings)}):
        found = [finding for finding in findings if finding.kind == kind]
        rows = [ShownFinding(each.action, each.reason, _cut(each.items, ITEMS_SHOWN)) for each in found]
        num = num_findings.get(kind, len(found))
        if num or found:
            num_items = sum(len(finding.items) for finding in found)
            meaning = FINDING_NAMES.get(kind, "")
            groups.append(FindingGroup(kind, meaning, num, num_items, _cut(rows, FINDINGS_SHOWN)))
    return groups


def _cut(items: Sequence[Item], most: int) -> Shown[Item]:
    """Return the whole list, or its first and last items and how many are left out between them."""
    if len(items) <= most:
        return Shown(list(items), 0, [])
    tail = most // 2
    return Shown(list(items[: most - tail]), len(items) - most, list(items[len(items) - tail :]))


def _tiles(examples: Sequence[Spoiled]) -> list[tuple[Spoiled, str]]:
    return [(example, picture_uri(small(example.image))) for example in examples]


def _explained(inputs: ReportInputs) -> list[tuple[str, list[tuple[Explained, str, str]]]]:
    """Return the explained images class by class: the case, its picture and its overlay."""
    groups: dict[int, list[tuple[Explained, str, str]]] = {}
    for case in inputs.explained:
        pictures = (case.image, overlay(case.image, case.heat))
        image, covered = (picture_uri(small(picture)) for picture in pictures)
        groups.setdefault(case.label, []).append((case, image, covered))
    return [(inputs.classes[label], cases) for label, cases in sorted(groups.items())]
