"""What a run looks like in Prefect's UI: Markdown of its plan, data, metrics, lineage and outputs.

Pure functions of decisions, manifests and records; `flows/prefect_ui/artifacts.py` publishes what they
return.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from hemaflow.flows.engine.engine import Decision
from hemaflow.flows.runs.formatting import duration, size
from hemaflow.flows.runs.leaderboard import HEADINGS, Member, rows
from hemaflow.flows.runs.record import RunRecord
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.core.run_metrics import RunMetrics, SplitMetrics
from hemaflow.tasks.evaluate.metrics import METRICS
from hemaflow.tasks.report.notes import note
from hemaflow.tasks.review.results import CandidateRow, Drift, LabelErrorsFacts, Verdict
from hemaflow.tasks.sources.base import Finding

SPLITS = {"val": "val", "val_tta": "val, TTA", "test": "test", "test_tta": "test, TTA"}
"""Entries of the metrics → what a page calls them."""
SPOILED = {
    "val_heavy_mix": "val, heavy mix",
    "val_heavy_mix_tta": "val, heavy mix, TTA",
    "test_heavy_mix": "test, heavy mix",
    "test_heavy_mix_tta": "test, heavy mix, TTA",
    "val_medmnistc": "val, MedMNIST-C",
    "test_medmnistc": "test, MedMNIST-C",
}
"""Entries of spoiled images → what a page calls them."""
MAX_FINDINGS = 50
"""Findings that a page lists; `hemaflow findings RUN` lists them all."""
MAX_CANDIDATES = 50
"""Candidates for label errors that a page lists."""


def plan(decisions: Sequence[Decision], estimates: Mapping[str, float | None]) -> str:
    """Return what runs, what is reused, and why."""
    rows = [
        [
            decision.stage,
            "reused" if decision.state == "reuse" else "**runs**",
            f"`{decision.inputs.key[:8]}`" if decision.inputs else "",
            duration(seconds) if (seconds := estimates.get(decision.stage)) is not None else "",
            decision.reason,
        ]
        for decision in decisions
    ]
    return "# Plan\n\n" + table(["stage", "", "key", "takes about", "because"], rows)


def findings(facts: IngestFacts, found: Sequence[Finding]) -> str:
    """Return the number of images that ingest read, and what it dropped, grouped or ignored."""
    classes, counts = facts.classes, facts.class_counts
    images = table(
        ["class", *counts],
        [[name, *(str(counts[split][k]) for split in counts)] for k, name in enumerate(classes)]
        + [["**all**", *(f"**{sum(counts[split])}**" for split in counts)]],
    )
    kinds = table(["finding", "images"], [[kind, str(n)] for kind, n in facts.num_findings.items()])
    listed = table(
        ["finding", "images", "action", "reason"],
        [
            [
                finding.kind,
                ", ".join(finding.items[:3]) + (" …" if len(finding.items) > 3 else ""),
                finding.action,
                finding.reason,
            ]
            for finding in found[:MAX_FINDINGS]
        ],
    )
    more = f"\n\n{len(found) - MAX_FINDINGS} more: hemaflow findings RUN" if len(found) > MAX_FINDINGS else ""
    quality = f"{kinds}\n\n## Each\n\n{listed}{more}" if found else "Nothing was found amiss."
    return f"# Data: {escaped(facts.source)}\n\n{images}\n\n## Findings\n\n{quality}"


def views(asked: str, used: Sequence[str], reason: str) -> str:
    """Return which views predictions are averaged over, and why they are not those that were asked for."""
    return f"{asked}: {', '.join(used)}" + (f" ({reason})" if reason else "")


def metrics(document: RunMetrics, tta: str) -> str:
    """Return the metrics with their 95 % intervals, and the test split's classes and confusions.

    Args:
        document: The metrics of a run.
        tta: What is to be said of the views.
    """
    measured = document.measured()
    entries = {name: measured[name] for name in SPLITS if name in measured}
    overlap = [note(document.data_overlap, split) for split in ("val", "test")]
    notes = "\n\n".join([f"TTA: {tta}", *filter(None, overlap)])
    page = f"# Metrics, with 95 % intervals\n\n{notes}\n\n" + _metrics_table(entries, SPLITS)
    spoiled = {name: measured[name] for name in SPOILED if name in measured}
    if spoiled:
        page += "\n\n## Spoiled images\n\n" + _metrics_table(spoiled, SPOILED)
    corrupted = spoiled.get("test_medmnistc") or spoiled.get("val_medmnistc")
    if corrupted and corrupted.corruptions:
        page += "\n\n" + corruptions(corrupted)
    judged = entries.get("test_tta") or entries.get("val_tta")
    if judged and judged.confusion:
        page += f"\n\n## Confusions ({SPLITS['test_tta']})\n\n" + confusion(judged)
    return page


def corruptions(corrupted: SplitMetrics) -> str:
    """Return the accuracy under each corruption of MedMNIST-C by severity, and its balanced error."""
    rows = [
        [
            f"**{row.corruption}**" if row.corruption == corrupted.worst_corruption else row.corruption,
            *(f"{accuracy:.4f}" for accuracy in row.accuracy),
            f"{row.balanced_error:.4f}",
            f"{row.balanced_error_to_alexnet:.2f}",
        ]
        for row in corrupted.corruptions
    ]
    severities = [str(severity) for severity in range(1, len(corrupted.corruptions[0].accuracy) + 1)]
    worst = f"{corrupted.worst_corruption}; worst class: {escaped(corrupted.worst_class)}"
    listed = table(["accuracy at severity", *severities, "balanced error", "× AlexNet"], rows)
    return f"Worst corruption: {worst}\n\n{listed}"


def _metrics_table(entries: Mapping[str, SplitMetrics], names: Mapping[str, str]) -> str:
    """Return a row for each metric that any of the entries has, with its interval where there is one."""

    def cell(entry: SplitMetrics, name: str) -> str:
        value = entry.score(name)
        interval = entry.intervals.get(name)
        if value is None:
            return ""
        return f"{value:.4f}" + (" ({:.4f} to {:.4f})".format(*interval) if interval else "")

    rows = [
        [registered.text.title, *(cell(entry, name) for entry in entries.values())]
        for name, registered in METRICS.items()
    ]
    rows = [row for row in rows if any(row[1:])]
    rows.append(["images", *(str(entry.num_examples) for entry in entries.values())])
    return table(["", *(names[name] for name in entries)], rows)


def confusion(judged: SplitMetrics) -> str:
    """Return a confusion matrix with each class's recall: rows are the truth, columns what was predicted."""
    names = [row.name for row in judged.per_class]
    rows = [
        [
            name,
            f"{judged.per_class[k].recall:.4f}",
            *(f"**{n}**" if k == column else str(n or "") for column, n in enumerate(judged.confusion[k])),
        ]
        for k, name in enumerate(names)
    ]
    return table(["is \\ called", "recall", *names], rows)


def lineage(record: RunRecord, manifests: Mapping[str, Manifest]) -> str:
    """Return what each result was made from: keys, content, objects."""
    rows = []
    for stage in record.stages:
        manifest = manifests[stage.stage]
        made_from = [f"{name} `{digest[:8]}`" for name, digest in manifest.inputs.parents.items()]
        rows.append(
            [
                stage.stage,
                f"`{stage.key[:8]}`",
                stage.state,
                f"`{manifest.digest[:8]}`",
                ", ".join(made_from),
                f"{len(manifest.objects)} objects, {size(sum(o.size_bytes for o in manifest.objects))}",
                f"{stage.seconds:.1f}",
            ]
        )
    heading = f"# Lineage of run {record.run}\n\nhemaflow {record.hemaflow} {record.git_revision}".rstrip()
    pinned = f"\n\nPinned to run {record.of}." if record.of else ""
    return f"{heading}{pinned}\n\n" + table(
        ["stage", "key", "", "content", "made from the content of", "holds", "seconds"], rows
    )


def outputs(record: RunRecord, store_url: str) -> str:
    """Return where the report and the submission are, and how to get at them."""
    rows = [[name, f"`{store_url}/{location}`"] for name, location in record.outputs.items()]
    commands = {
        "report": f"hemaflow report {record.run} --store {store_url}",
        "submission": f"hemaflow show {record.run} --store {store_url}",
    }
    shown = "\n".join(command for name, command in commands.items() if name in record.outputs)
    return f"# Outputs of run {record.run}\n\n" + table(["", "object"], rows) + f"\n\n```sh\n{shown}\n```"


def verdict(challenger: str, champion: str, judged: Verdict) -> str:
    """Return what was decided between two runs, and all numbers behind it."""
    accuracy, rule = judged.accuracy, judged.rule
    decision = "is promoted" if judged.promote else "is not promoted"
    classes = table(
        ["class", "images", "champion", "challenger", "difference"],
        [
            [
                row.name,
                str(row.num_images),
                *(
                    f"{right / max(row.num_images, 1):.4f}"
                    for right in (row.champion_right, row.challenger_right)
                ),
                f"{row.difference:+.4f}" + ("" if row.judged else " (too few to judge)"),
            ]
            for row in judged.per_class
        ],
    )
    compared = table(
        ["", "run", "accuracy"],
        [
            ["champion", champion, f"{accuracy.champion:.4f}"],
            ["challenger", challenger, f"{accuracy.challenger:.4f}"],
            [
                "difference",
                "",
                "{:+.4f} ({:+.4f} to {:+.4f})".format(accuracy.difference, *accuracy.interval),
            ],
        ],
    )
    notes = "".join(f"\n- {escaped(note)}" for note in judged.notes)
    return "\n\n".join(
        [
            f"# The challenger {decision}",
            escaped(judged.reason),
            compared,
            f"{judged.num_images} reference images; 95 % interval: {accuracy.method}. "
            f"McNemar's exact test: p = {judged.mcnemar.p:.3g}.",
            f"Rule: the interval must be above -{rule.delta:g}, and no class of at least "
            f"{rule.min_class_images} images may lose more than {rule.epsilon:g} of its recall.",
            f"## Recall\n\n{classes}\n{notes}",
        ]
    )


def drift(found: Drift) -> str:
    """Return how new images differ from those that the champion was trained on."""
    rows = [
        [
            row.name,
            row.test,
            f"{row.statistic:.4g}",
            f"{row.effect:.4f}",
            f"{row.p_corrected:.3g}",
            "**drifted**" if row.drifted else "",
        ]
        for row in found.rows
    ]
    drifted = ", ".join(found.drifted) or "nothing"
    tests = table(["", "test", "statistic", "effect", "p (Holm)", ""], rows) if rows else ""
    notes = "".join(f"\n- {escaped(note)}" for note in found.notes)
    return f"# Drift: {drifted}\n\n{found.num_new_images} new images.\n\n{tests}\n{notes}"


def leaderboard(members: Sequence[Member], plot: bytes = b"") -> str:
    """Return what a comparison came to: the order, the plot, and the runs behind each row."""
    ranked = [[str(place), *cells] for place, cells in enumerate(rows(members), start=1)]
    runs = "".join(f"\n- {escaped(member.name)}: {', '.join(member.runs)}" for member in members)
    page = "# Leaderboard\n\n" + table(["", *HEADINGS], ranked)
    if plot:
        page += f"\n\n![Accuracies](data:image/png;base64,{base64.b64encode(plot).decode()})"
    return f"{page}\n\nAccuracies are those of the test split, with 95 % intervals.\n\n## Runs\n{runs}"


def label_errors(
    result: Manifest, candidates: Sequence[CandidateRow], runs: Sequence[str], store_url: str
) -> str:
    """Return the images whose labels a person should check, the most likely error first."""
    facts = LabelErrorsFacts.of(result)
    listed = table(
        ["", "image", "labelled", "suggested", "score"],
        [
            [str(row.rank), row.id, row.given, row.suggested, f"{row.score:.4f}"]
            for row in candidates[:MAX_CANDIDATES]
        ],
    )
    left_out = len(candidates) - MAX_CANDIDATES
    more = f"\n\n{left_out} more in label-errors.csv" if left_out > 0 else ""
    conflicts = "".join(f"\n- {escaped(' = '.join(items))}" for items in facts.conflicts)
    found = f"{len(candidates)} of {facts.num_images} images may have a wrong label"
    return "\n\n".join(
        [
            f"# Candidates for label errors: {len(candidates)}",
            f"{found}: of {len(runs)} models, the one that was not trained on the image contradicts it.",
            *([listed + more] if candidates else []),
            *([f"## One picture under several labels\n{conflicts}"] if conflicts else []),
            "## Page with the pictures, and CSV\n"
            + "".join(f"\n- `{store_url}/{stored.location}`" for stored in result.objects),
            f"Runs: {', '.join(runs)}",
        ]
    )


def title(stage: str, config: Mapping[str, object]) -> str:
    """Return what a stage's task is called: `train efficientnetv2-s`."""
    detail = {"augment": "copies", "train": "backbone", "evaluate": "tta"}.get(stage)
    value = config.get(detail, "") if detail else ""
    if detail == "copies":
        return f"{stage} {value} {'copy' if value == 1 else 'copies'}"
    members = config.get("ensemble_of")
    if stage == "train" and isinstance(members, Sequence) and members:
        return f"train ensemble of {len(members)}"
    return f"{stage} {value}".rstrip()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; what the cells say is shown as it is, but for ** and `."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Return a text that ends no table cell and is no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
