"""The report: what it shows, what it hides, and that it is the same each time."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from helpers.facts import train_facts
from hemaflow.tasks.core.facts import TrainFacts
from hemaflow.tasks.core.history import EpochRow
from hemaflow.tasks.core.run_metrics import RunMetrics, SplitMetrics, ViewChoice
from hemaflow.tasks.evaluate.metrics import METRICS
from hemaflow.tasks.evaluate.mistakes import Mistake
from hemaflow.tasks.evaluate.robustness import evaluate_medmnist_c
from hemaflow.tasks.predict.medmnist_c import MEDMNIST_C
from hemaflow.tasks.predict.pictures import Examples, Explained, Spoiled
from hemaflow.tasks.report.inputs import ReportInputs
from hemaflow.tasks.report.report import render
from hemaflow.tasks.report.robustness_section import heat
from hemaflow.tasks.sources.base import Finding

HOSTILE = '<script>alert("x")</script>'
CLASSES = ["basophil", HOSTILE, "platelet"]
CONFUSION = [[30, 2, 0], [1, 40, 0], [0, 0, 27]]


def entry(**more: Any) -> SplitMetrics:
    figures = {
        "accuracy": 0.97,
        "balanced_accuracy": 0.9711,
        "macro_f1": 0.9722,
        "macro_auc": 0.9933,
        "nll": 0.1044,
        "ece": 0.0258,
    }
    per_class = [
        {
            "class": name,
            "precision": 0.95,
            "recall": sum(row) and row[i] / sum(row),
            "f1": 0.96,
            "support": sum(row),
        }
        for i, (name, row) in enumerate(zip(CLASSES, CONFUSION, strict=True))
    ]
    bins = {"confidence": [0, 0.75, 0.99], "accuracy": [0, 0.7, 0.98], "count": [0, 10, 90]}
    document = {
        **figures,
        "intervals": {name: [value - 0.02, value + 0.01] for name, value in figures.items()},
        "per_class": per_class,
        "confusion": CONFUSION,
        "reliability": bins,
        "num_examples": 100,
        **more,
    }
    return SplitMetrics.model_validate(document)


def with_metrics(given: ReportInputs, **entries: Any) -> ReportInputs:
    """The same inputs with other entries of the metrics, or without those that are None."""
    kept = {name: getattr(given.metrics, name) for name in given.metrics.model_fields_set} | entries
    return replace(given, metrics=only(**kept))


def only(**entries: Any) -> RunMetrics:
    return RunMetrics.model_validate({name: value for name, value in entries.items() if value is not None})


def trained(**facts: Any) -> TrainFacts:
    return TrainFacts.model_validate(train_facts(optimizer_steps=75, **facts))


def inputs() -> ReportInputs:
    flips = {"to_right": 8, "to_wrong": 1, "changed_wrong": 3}
    history = [
        EpochRow(
            epoch=epoch,
            phase="transfer" if epoch < 3 else "fine-tuning",
            loss=1 / epoch,
            accuracy=1 - 0.3 / epoch,
            val_loss=1.1 / epoch,
            val_accuracy=1 - 0.4 / epoch,
            learning_rate=0.001,
        )
        for epoch in range(1, 6)
    ]
    findings = [
        Finding("contaminant", [f"row {i}" for i in range(1600)], "dropped", HOSTILE),
        *(Finding("exact-duplicate", [f"copy-{i}.jpg"], "dropped", "") for i in range(100)),
    ]
    return ReportInputs(
        source="cells & <b>co</b>.zip",
        classes=CLASSES,
        class_counts={"train": [300, 400, 270], "val": [30, 40, 27], "test": [32, 41, 27]},
        image_size_pixels=24,
        metrics=only(val=entry(), val_tta=entry(flips=flips), test=entry(), test_tta=entry(flips=flips)),
        metric_texts={name: registered.text for name, registered in METRICS.items()},
        history=history,
        findings=findings,
        num_findings={"contaminant": 1, "exact-duplicate": 100},
        preview_png=b"\x89PNG preview",
        mistakes=[Mistake(f"{HOSTILE}.jpg", "test", np.full((24, 24, 3), 200, np.uint8), 0, 1, 0.987)],
        train_facts=trained(best_epoch=4, best_val_accuracy=0.9),
        tta="flips",
    )


def test_images_of_the_training_are_not_called_unseen() -> None:
    made = inputs()
    assert "it had never seen" in Page(render(made).decode()).text
    made = with_metrics(made, data_overlap={"val": 0, "test": 7})
    text = Page(render(made).decode()).text
    assert "it had never seen" not in text
    assert "trained on 7 of the images of test" in text


def test_a_training_without_val_images_has_curves_without_them() -> None:
    made = inputs()
    history = [replace(row, val_loss=None, val_accuracy=None) for row in made.history]
    made = replace(made, history=history, train_facts=trained(best_epoch=5, best_val_accuracy=None))
    page = render(made).decode()
    curves = page[page.index('id="training"') :].partition("</section>")[0]
    assert "train" in curves
    assert ">val<" not in curves
    assert "best epoch" not in curves
    assert "The weights kept" not in curves


class Page(HTMLParser):
    """Collects the tags, attributes and text of a page, and fails where tags do not close."""

    VOID = ("meta", "img", "br", "path", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.references.append(value or "")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html() -> str:
    return render(inputs()).decode()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_report_has_all_its_parts(page: Page) -> None:
    parts = "metrics confusion mistakes training reliability data cleaning augmented configuration"
    assert set(parts.split()) <= set(page.ids)
    for figure in ("97.0", "97.1", "97.2", "0.993", "0.104", "0.026"):
        assert figure in page.text
    assert "95.0 – 98.0" in page.text.replace("\N{NO-BREAK SPACE}%", "")
    assert "8 from wrong to right, 1 from right to wrong" in re.sub(r"\s+", " ", page.text)
    assert "p = 0.039" in page.text
    assert "best epoch (4)" in page.text
    assert "fine-tuning" in page.text
    assert page.tags.count("svg") == 2


def test_report_escapes_what_came_from_data(html: str, page: Page) -> None:
    assert "script" not in page.tags
    assert "b" not in re.findall(r"<(b)>co", html)
    assert page.text.count(HOSTILE) > 5
    assert "cells & <b>co</b>.zip" in page.text


def test_report_needs_nothing_from_outside(html: str, page: Page) -> None:
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in page.references)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", re.sub(r"base64,[^\"]*", "", html))
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references if reference[0] == "#"} <= set(page.ids)


def test_report_is_the_same_each_time(html: str) -> None:
    assert render(inputs()).decode() == html


def test_report_shows_pictures_of_findings() -> None:
    pictures = {"contaminant": {"row <0>": np.full((24, 24, 3), 9, np.uint8)}}
    shown = Page(render(replace(inputs(), finding_pictures=pictures)).decode())
    assert len(shown.references) == len(Page(render(inputs()).decode()).references) + 1
    assert "row <0>" in shown.text


def test_report_cuts_long_lists_in_the_middle_and_says_so(page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    assert "row 0, row 1, row 2, … 1 594 left out … row 1597, row 1598, row 1599".replace(
        "1 594", "1\N{NARROW NO-BREAK SPACE}594"
    ) in text.replace("1 594", "1\N{NARROW NO-BREAK SPACE}594")
    assert "copy-14.jpg" in text
    assert "copy-15.jpg" not in text
    assert "70 left out; see hemaflow findings RUN" in text
    assert "copy-85.jpg" in text


def test_report_without_tta_shows_the_plain_figures_only(page: Page) -> None:
    plain = Page(render(replace(inputs(), tta="none")).decode())
    assert "test, TTA" in page.text
    assert "TTA" not in plain.text


def spoiled_inputs() -> ReportInputs:
    """What the report is made of where robustness was measured; stain deposits are the worst."""
    labels = np.repeat([0, 1, 2], 20)
    named = np.tile(labels, (11, 5, 1))
    for severity in range(5):
        named[list(MEDMNIST_C).index("stain_deposit"), severity, : 4 * (severity + 1)] = 2
    corrupted = evaluate_medmnist_c(labels, named, CLASSES, resamples=20, seed=0)
    spoiled = {"test_heavy_mix": entry(accuracy=0.55), "test_heavy_mix_tta": entry(accuracy=0.61)}
    pixels = np.full((24, 24, 3), 90, np.uint8)
    examples = Examples(
        [Spoiled("", pixels, 0, 2)], pixels, [Spoiled(name, pixels, 0, 0) for name in MEDMNIST_C]
    )
    return with_metrics(replace(inputs(), examples=examples), **spoiled, test_medmnistc=corrupted)


def test_clean_heavy_mix_and_corrupted_stand_side_by_side() -> None:
    page = Page(render(spoiled_inputs()).decode())
    text = re.sub(r"\s+", " ", page.text)
    assert "Clean (TTA) · test 97.0" in text
    assert "Heavy mix (TTA) · test 61.0" in text
    assert "−36.0 points" in text
    assert "MedMNIST-C · test 98.2" in text  # 1 − 0.2 · (0.2 + 0.4 + 0.6 + 0.8 + 1) / 3 / 11
    assert "it names 61.0 % right" in text
    assert "was not measured" not in text


def test_the_corruptions_are_shown_by_severity_and_the_worst_are_named() -> None:
    page = Page(render(spoiled_inputs()).decode())
    text = re.sub(r"\s+", " ", page.text)
    assert "robustness" in page.ids
    # Of 60 images 4, 8, 12, 16, 20 wrong; the balanced error is their share of 20, over 3 classes.
    assert "stain deposit worst 93.386.780.073.366.7 80.0 0.2001.08" in text
    assert "JPEG compression 100.0100.0100.0100.0100.0 100.0 0.0000.00" in text
    assert "basophil worst" in text
    assert "worst is stain deposit, down to 66.7" in text
    assert sum(reference.startswith("data:image/png") for reference in page.references) == 2 + 1 + 1 + 11
    assert "basophil → platelet" in text
    assert "script" not in page.tags


def test_a_report_without_robustness_says_so(page: Page) -> None:
    assert "was not measured" in page.text
    assert "robustness" not in page.ids


def test_the_heavy_mix_alone_is_shown_without_the_table() -> None:
    given = spoiled_inputs()
    given = with_metrics(given, test_medmnistc=None)
    examples = replace(given.examples, original=None, corruptions=[])
    text = Page(render(replace(given, examples=examples, tta="none")).decode()).text
    assert "Heavy mix · test" in text
    assert "55.0" in text
    assert "MedMNIST-C" not in text


def test_the_more_is_wrong_the_deeper_the_shade() -> None:
    shades = [heat(accuracy).shade for accuracy in (1.0, 0.99, 0.9, 0.5, 0.0)]
    assert shades == sorted(shades)
    assert shades[0] == 0
    assert shades[1] > 0.05
    assert "strong" in heat(0.3).kind


def test_report_of_next_to_nothing_still_comes_out() -> None:
    bare = replace(
        inputs(),
        metrics=only(val=SplitMetrics(num_examples=0), test=SplitMetrics(num_examples=0)),
        history=[],
        findings=[],
        num_findings={},
        preview_png=b"",
        mistakes=[],
        tta="none",
    )
    text = Page(render(bare).decode()).text
    assert "no images to judge" in text
    assert "every image could be read" in text


def test_report_without_test_images_is_about_val() -> None:
    only_val = replace(inputs(), metrics=only(val=entry(), test=SplitMetrics(num_examples=0)), tta="none")
    text = Page(render(only_val).decode()).text
    assert "accuracy · val" in text
    assert "names 97.0" in text


def test_report_never_rounds_up_to_perfect() -> None:
    almost = replace(inputs(), metrics=only(test=entry(accuracy=0.99999)), tta="none")
    text = Page(render(almost).decode()).text
    assert "names 99.9\N{NO-BREAK SPACE}% right" in text


def choice(**more: Any) -> ViewChoice:
    """The entry tta of the metrics after a search that found one view."""
    steps = [
        {"view": "identity", "accuracy": {"clean": 0.9, "heavy_mix": 0.5}},
        {"view": "rotate-90", "accuracy": {"clean": 0.925, "heavy_mix": 0.61}},
    ]
    document = {
        "asked": "search",
        "views": ["identity", "rotate-90"],
        "steps": steps,
        "gain": 0.0675,
        "interval": [0.031, 0.094],
        "reason": "",
        "times_slower": 2,
        **more,
    }
    return ViewChoice.model_validate(document)


def text_with(tta: str, chosen: ViewChoice) -> str:
    given = with_metrics(replace(inputs(), tta=tta), tta=chosen)
    return re.sub(r"\s+", " ", Page(render(given).decode()).text.replace("\N{NO-BREAK SPACE}", " "))


def test_the_path_of_a_search_is_shown_with_its_gain_and_its_cost() -> None:
    text = text_with("search", choice())
    assert "averaging over the 2 views that a search on val chose" in text
    assert "1image alone 90.00 % 50.00 % used" in text
    assert "2+ rotate-90 92.50 %+2.5061.00 %+11.00 used" in text
    assert "+6.75 points over the image alone (95 % interval +3.10 to +9.40)" in text
    assert "takes 2 times as long" in text
    assert "test, TTA" in text


def test_views_that_were_not_kept_are_shown_with_the_reason() -> None:
    kept = {"views": ["identity"], "times_slower": 1}
    lost = "averaged over them, fewer val images are right: 3 of 200 clean ones lost"
    text = text_with("flips", choice(asked="flips", reason=lost, **kept))
    assert f"They are not used: {lost}." in text
    assert "+ rotate-90 92.50 %+2.5061.00 %+11.00 not used" in text
    assert "time of one view" in text
    assert "TTA" not in text
    first = choice().steps[:1]
    nothing = choice(steps=first, gain=0.0, interval=[0, 0], reason="no view gained anything on val", **kept)
    assert "The image alone is used: no view gained anything on val." in text_with("search", nothing)


def test_where_the_model_looks_is_shown_class_by_class() -> None:
    image, heat = np.full((24, 24, 3), 90, np.uint8), np.eye(24, dtype=np.float32)
    explained = [
        Explained("right.png", image, heat, 0, 0, 0.999),
        Explained(f"{HOSTILE}.png", image, heat, 0, 2, 0.75),
        Explained("other.png", image, heat, 2, 2, 0.5),
    ]
    given = replace(inputs(), explained=explained)
    page = Page(render(given).decode())
    text = re.sub(r"\s+", " ", page.text.replace("\N{NO-BREAK SPACE}", " "))
    assert "explained" in page.ids
    assert "basophil ✓ basophil 99.9 %right.png → platelet 75.0 %" in text
    assert "platelet ✓ platelet 50.0 %other.png" in text
    assert "script" not in page.tags
    assert sum(reference.startswith("data:image/png") for reference in page.references) == 2 + 6
    assert render(given).decode() == render(given).decode()
    assert "explained" not in Page(render(inputs()).decode()).ids
