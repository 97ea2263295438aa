"""Results of ingest and evaluate of a cross-validation, whose predictions a test makes up."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.facts import evaluate_facts, ingest_facts
from helpers.pictures import SIZE, Cell, inputs
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.local import LocalStore
from hemaflow.tasks.records import schema
from hemaflow.tasks.records.index import Row, write_index
from hemaflow.tasks.records.predictions import write_predictions
from hemaflow.tasks.records.tfrecord import write_records


def certain(label: int, num_classes: int, certainty: float = 0.9) -> NDArray[np.float32]:
    """A distribution that has so much at one class, and equal parts of the rest at the others."""
    row = np.full(num_classes, (1 - certainty) / (num_classes - 1), np.float32)
    row[label] = certainty
    return row


def fold_results(
    store: LocalStore,
    cells: Sequence[Cell],
    believed: Mapping[str, NDArray[np.float32]],
    fold: int,
    num_folds: int,
    *,
    classes: Sequence[str],
    findings: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Manifest]:
    """The results of one fold: of the cells, every num_folds-th is in test; `believed` tells of each."""
    tested, rest = cells[fold::num_folds], [c for k, c in enumerate(cells) if k % num_folds != fold]
    ingest = Draft(store, inputs("ingest", num_folds=num_folds, fold=fold, cells=[c.id for c in cells]))
    rows = [Row(cell.id, "", cell.label, "train", cell.id) for cell in rest]
    rows += [Row(cell.id, "", cell.label, "test", cell.id) for cell in tested]
    ingest.put("index.csv", write_index(rows))
    ingest.put("findings.json", json.dumps(list(findings)).encode())
    halves = [tested[: len(tested) // 2], tested[len(tested) // 2 :]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        for number, half in enumerate(halves):
            write_records(
                path,
                [
                    schema.encode(cell.id, cell.image, schema.one_hot(cell.label, len(classes)))
                    for cell in half
                ],
            )
            ingest.put_file(schema.shard_name("test", number, 2), path, num_records=len(half))
    evaluate = Draft(store, inputs("evaluate", ingest=ingest.key))
    probabilities = np.array([believed[cell.id] for cell in tested], np.float32)
    labels = np.array([cell.label for cell in tested], np.int64)
    # What the image alone is taken for must not be read: it is wrong here.
    plain = np.roll(probabilities, 1, axis=1)
    ids = [cell.id for cell in tested]
    evaluate.put("predictions-test.csv", write_predictions(ids, labels, plain, probabilities))
    return {
        "ingest": ingest.commit(
            **ingest_facts(classes, SIZE, {"train": len(rest), "test": len(tested)}, source="cells.zip")
        ),
        "evaluate": evaluate.commit(**evaluate_facts()),
    }
