"""Complete facts for the results that tests make up; a test gives those that matter to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hemaflow.tasks.core.facts import (
    SPLITS,
    AugmentFacts,
    EvaluateFacts,
    IngestFacts,
    PredictFacts,
    TrainFacts,
)

CLASSES = ["blue", "green", "red"]


def ingest_facts(
    classes: Sequence[str] = CLASSES,
    image_size_pixels: int = 24,
    num_examples: Mapping[str, int] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Facts of ingest; images belong to the classes in turn where `class_counts` is not given."""
    counts = {split: (num_examples or {}).get(split, 0) for split in SPLITS}
    classes_in_turn = range(len(classes))
    by_class = {
        split: [len(range(k, n, len(classes))) for k in classes_in_turn] for split, n in counts.items()
    }
    given = {
        "classes": list(classes),
        "image_size_pixels": image_size_pixels,
        "num_examples": counts,
        "class_counts": by_class,
        "source": "pictures",
        "num_findings": {},
    }
    return IngestFacts.model_validate(given | others).model_dump(mode="json")


def augment_facts(num_examples: int, **others: Any) -> dict[str, Any]:
    """Facts of augment."""
    given = {"num_examples": num_examples, "num_shards": 1, "image_size_pixels": 24, "classes": CLASSES}
    return AugmentFacts.model_validate(given | others).model_dump(mode="json")


def train_facts(**others: Any) -> dict[str, Any]:
    """Facts of train: of a small network that was not trained."""
    given: dict[str, Any] = {
        "epochs": 0,
        "num_parameters": 12,
        "image_size_pixels": 24,
        "classes": CLASSES,
        "backbone": "cnn",
        "optimizer_steps": 0,
        "best_epoch": 0,
        "best_val_accuracy": 0.0,
        "trained_on": [],
        "data_overlap": {},
    }
    return TrainFacts.model_validate(given | others).model_dump(mode="json")


def predict_facts(**others: Any) -> dict[str, Any]:
    """Facts of predict: of the unchanged image alone; the report is about test."""
    given: dict[str, Any] = {"views": ["identity"], "shown_split": "test"}
    return PredictFacts.model_validate(given | others).model_dump(mode="json")


def evaluate_facts(**others: Any) -> dict[str, Any]:
    """Facts of evaluate: without metrics, of the unchanged image alone."""
    given: dict[str, Any] = {"metrics": {}, "tta": "none", "tta_reason": "", "tta_views": ["identity"]}
    return EvaluateFacts.model_validate(given | others).model_dump(mode="json")
