"""Packages the trained model for a judge, and proves that the package gives the reported predictions.

Reads the test shards of ingest (the val shards if test is empty), `model.keras` of train, the views and the
predictions of evaluate. Writes

    submission.zip     model.py and model.keras; they need keras, tensorflow and numpy, nothing else
    verification.json  number of compared predictions, their SHA-256, the accuracy, library versions; with
                       calibration the temperature, and NLL and ECE before and after; the views, and the
                       reason if they are not the requested ones

Guarantees: the same inputs give the same zip, byte for byte. Nothing is committed unless the zip, unpacked
into an empty folder and run by a fresh interpreter that cannot import this project, predicts the reported
class for every image.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.tasks.core.facts import IngestFacts, SubmitFacts, ViewsFacts
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.inference import calibration
from hemaflow.tasks.inference.temperature import tempered
from hemaflow.tasks.records.predictions import Reported, read_predictions
from hemaflow.tasks.records.schema import read_batches
from hemaflow.tasks.submit.calibration import fit_temperature
from hemaflow.tasks.submit.config import SubmitConfig
from hemaflow.tasks.submit.package import model_code, pack, run_submission, write_images

log = logging.getLogger(__name__)


def run(parents: Parents, config: SubmitConfig, draft: Draft) -> Manifest:
    """Write submission.zip and verification.json.

    Raises:
        StageError: The package cannot be run, or its predictions differ from the report.
        StoreFull: There is no space for the temporary copy of the test images.
    """
    evaluate, classes = parents["evaluate"], IngestFacts.of(parents["ingest"]).classes
    evaluated = ViewsFacts.of(evaluate)
    batch_size = int(evaluate.inputs.config["batch_size"])
    views = tuple(evaluated.tta_views) if config.tta else ("identity",)
    tta = views != ("identity",)
    reason = evaluated.tta_reason if config.tta else "submit.tta is off"

    def read(split: str) -> Reported:
        return read_predictions(
            evaluate.read(parents.store, f"predictions-{split}.csv"), len(classes), tta=tta
        )

    split, reported = "test", read("test")
    if not reported.ids:
        split, reported = "val", read("val")
    if not reported.ids:
        raise DataError(
            "The submission cannot be proven: there are neither test nor val images.",
            expected="at least one image in one of the two splits",
            remedy="Give ingest a share of them (ingest.test_share, ingest.val_share); where the source has "
            "folders of splits, put some images into test/.",
        )
    temperature = 1.0
    if config.calibrate:
        val = read("val")
        temperature = fit_temperature(val.labels, val.probabilities)
    with scratch_folder() as folder:
        zip_path, images_path = folder / "submission.zip", folder / "images.npy"
        draft.progress(0, 3, "packing the model")
        pack(zip_path, model_code(classes, views, batch_size, temperature), _model(parents))
        draft.progress(1, 3, f"unpacking the {split} images")
        _write_images(parents, split, images_path, len(reported.ids))
        draft.progress(2, 3, f"classifying {len(reported.ids)} {split} images with the package alone")
        chunk_size = batch_size * max(1, 1024 // batch_size)
        outcome = run_submission(zip_path, images_path, chunk_size=chunk_size)
        labels = outcome.labels
        _compare(reported, labels, classes)
        size_bytes = draft.put_file("submission.zip", zip_path).size_bytes
    accuracy = float(np.mean(labels == reported.labels))
    verification = {
        "accuracy": accuracy,
        "labels_sha256": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        "num_verified": len(labels),
        "split": split,
        "temperature": temperature,
        "versions": outcome.versions,
        "views": list(views),
        "views_reason": reason,
    }
    if config.calibrate:
        verification["calibration"] = _calibration(reported, temperature)
    draft.put("verification.json", json.dumps(verification, sort_keys=True, indent=1).encode())
    draft.progress(3, 3, f"verified {len(labels)} predictions")
    log.info("the package alone predicts %d of %d %s images as reported", len(labels), len(labels), split)
    return SubmitFacts(
        size_bytes=size_bytes,
        num_verified=len(labels),
        accuracy=accuracy,
        tta=list(views),
        views_reason=reason,
    ).commit(draft)


def _calibration(reported: Reported, temperature: float) -> dict[str, dict[str, float]]:
    """Return NLL (nats) and ECE of the verified images before and after the temperature."""
    once = np.ones((1, len(reported.ids)))
    return {
        when: {
            "nll": float(calibration.nll(reported.labels, answers, once)[0]),
            "ece": float(calibration.ece(reported.labels, answers, once)[0]),
        }
        for when, answers in (
            ("before", reported.probabilities),
            ("after", tempered(reported.probabilities, temperature)),
        )
    }


def _compare(reported: Reported, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raise StageError unless the package predicts every image as the report does."""
    different = np.flatnonzero(labels != reported.predicted)
    if not len(different):
        return

    def name(label: int) -> str:
        return repr(classes[label]) if 0 <= label < len(classes) else f"label {label}"

    first = "; ".join(
        f"{reported.ids[i]} is {name(reported.predicted[i])} in the report, {name(labels[i])} by the package"
        for i in different[:5]
    )
    raise StageError(
        f"The package and the report differ in {len(different)} of {len(labels)} predictions.",
        received=first + ("; …" if len(different) > 5 else ""),
        remedy="Nothing was kept. Run with --from predict: its predictions may come from another model.",
    )


def _model(parents: Parents) -> Path:
    return parents["train"].path(parents.store, "model.keras")


def _write_images(parents: Parents, split: str, path: Path, num_images: int) -> None:
    """Write the images of a split to a .npy of uint8[n, H, W, 3], in bounded memory."""
    ingest = parents["ingest"]
    size = IngestFacts.of(ingest).image_size_pixels
    shards = [parents.path(stored) for stored in ingest.matching(f"{split}-")]
    written = write_images(path, size, (batch.images for batch in read_batches(shards, size, 256)))
    if written != num_images:
        raise StageError(
            f"The report is not about this {split} split.",
            expected=f"predictions for {written} images",
            received=f"predictions for {num_images} images",
            remedy="Run with --from predict.",
        )
