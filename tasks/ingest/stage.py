"""Bring images in: list, clean, split, and write them as records.

Reads the source that --data names. Writes

    index.csv                          one row per image (tasks/records/index.py)
    train-…, val-…, test-….tfrecord    the images in the order of the index (tasks/records/schema.py)
    findings.json                      everything that was dropped, grouped or ignored, and why

Guarantees: nothing is dropped without a finding; a picture and its near duplicates are in one split, unless
the source itself has them in two; the same content gives the same bytes, in whatever order it is listed;
memory does not grow with the number of images, but for their hashes. Images in files need no TensorFlow.

With a reference set (tasks/ingest/reference_set.py), the test split is that set, whatever the source holds:
what of the source is a picture of it, or nearly, is dropped, and the rest is divided into train and val. A
split `test` of the source's own becomes val: somebody held it out, and it is not learnt from.

In a cross-validation (num_folds), the test split is one fold of all the pictures, whatever splits the source
has itself: over the folds, every picture is in the test split once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import current_settings
from hemaflow.tasks.core.facts import SPLITS, Split
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest.cleaning import Cleaned, Hashed, clean, perceptual_hash
from hemaflow.tasks.ingest.config import IngestConfig
from hemaflow.tasks.ingest.reference_set import (
    open_reference,
    reference_sha256,
    result_key,
)
from hemaflow.tasks.ingest.splitting import split_fold, split_groups
from hemaflow.tasks.records.index import Row, write_index
from hemaflow.tasks.records.schema import encode, one_hot, record_bytes, shard_name
from hemaflow.tasks.records.tfrecord import write_records
from hemaflow.tasks.sources.base import Finding, Item, Source
from hemaflow.tasks.sources.images import Unreadable, fit
from hemaflow.tasks.sources.registry import open_source

log = logging.getLogger(__name__)

CHUNK_IMAGES = 256
"""Images under way at once between reading and hashing or writing; bounds the memory."""


def run(parents: Parents, config: IngestConfig, draft: Draft) -> Manifest:
    """Write the data set.

    Raises:
        DataError: The source holds nothing to learn from.
        StageError: The source or the reference set changed since the key was made.
    """
    settings = current_settings()
    with (
        scratch_folder() as folder,
        open_source(parents.data, settings) as source,
        open_reference(config.reference, parents.store, settings) as reference,
    ):
        fixed, referred, findings = _reference_pictures(reference, config, draft)
        scan = source.scan()
        items = [_with_split(item, config) for item in scan.items]
        pictures, unreadable = _hash_all(source, items, config, draft)
        cleaned = _clean(pictures, config, referred)
        findings += [*scan.findings, *unreadable, *cleaned.findings]
        learnt = {picture.class_name for picture in cleaned.kept}
        _require_two(learnt, source.name, findings)
        # Every source lists its classes in the order of their names.
        classes = sorted(learnt | {picture.class_name for picture in fixed})
        rows = _rows(cleaned, fixed, classes, config)
        for split in SPLITS:
            of_split = [row for row in rows if row.split == split]
            origin = reference if config.reference and split == "test" else source
            _write_split(origin, of_split, split, len(classes), config, draft, folder / "shard")
    _require_unchanged(parents, config, draft)
    draft.put("index.csv", write_index(rows))
    found = [finding._asdict() for finding in sorted(findings, key=lambda f: (f.kind, f.items))]
    draft.put("findings.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
    num_findings = Counter[str]()
    for finding in findings:
        num_findings[finding.kind] += len(finding.items)
    for kind, count in sorted(num_findings.items()):
        log.info("%s: %d", kind, count)
    counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
    return draft.commit(
        classes=classes,
        image_size_pixels=config.image_size_pixels,
        num_examples={split: sum(counts[split].values()) for split in SPLITS},
        class_counts={split: [counts[split][k] for k in range(len(classes))] for split in SPLITS},
        source=source.name,
        num_findings=dict(sorted(num_findings.items())),
        **({"reference": config.reference_sha256} if config.reference else {}),
    )


def _require_unchanged(parents: Parents, config: IngestConfig, draft: Draft) -> None:
    """Raise StageError where what was read is not what the key of this result was made of."""
    settings = current_settings()
    with open_source(parents.data, settings) as source:
        present = source.content_digest()
    changed = present != draft.inputs.parents.get("source", present)
    if config.reference_sha256:
        changed |= reference_sha256(config.reference, settings) != config.reference_sha256
    if changed:
        raise StageError(
            "The data changed while it was read: nothing was kept.",
            where=parents.data,
            remedy="Run the same command again, once nothing is copied there any more.",
        )


def _reference_pictures(
    reference: Source, config: IngestConfig, draft: Draft
) -> tuple[list[Hashed], list[Hashed], list[Finding]]:
    """Return the pictures of the reference set, all that are readable of its source, and the findings.

    The test split of a result of ingest is a reference set as it is; any other source is cleaned first.
    """
    scan = reference.scan()
    pictures, unreadable = _hash_all(reference, scan.items, config, draft)
    if result_key(config.reference):
        return pictures, pictures, unreadable
    cleaned = _clean(pictures, config)
    return cleaned.kept, pictures, [*scan.findings, *unreadable, *cleaned.findings]


def _with_split(item: Item, config: IngestConfig) -> Item:
    """Return a picture with the split that its source has it in, as far as that counts.

    Folds are made anew; beside a reference set, what the source has in test is val.
    """
    if config.num_folds:
        return item._replace(split="")
    return item._replace(split="val") if config.reference and item.split == "test" else item


def _clean(pictures: Sequence[Hashed], config: IngestConfig, reference: Sequence[Hashed] = ()) -> Cleaned:
    return clean(
        pictures,
        contaminant_copies=config.contaminant_copies,
        near_duplicate_bits=config.near_duplicate_bits,
        reference=reference,
    )


def _hash_all(
    source: Source, items: Sequence[Item], config: IngestConfig, draft: Draft
) -> tuple[list[Hashed], list[Finding]]:
    """Read every picture once; return the hashes of those that can be read, and the others as findings."""

    def examine(item: Item) -> Hashed | Finding:
        try:
            pixels = fit(source.read(item.ref), config.image_size_pixels, config.fit)
        except Unreadable as error:
            return Finding("unreadable", [item.ref], "dropped", str(error))
        sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
        return Hashed(item.ref, item.class_name, item.split, sha256, perceptual_hash(pixels))

    hashed: list[Hashed] = []
    findings: list[Finding] = []
    for done, result in enumerate(_in_order(examine, items), start=1):
        if isinstance(result, Finding):
            findings.append(result)
        else:
            hashed.append(result)
        if done % CHUNK_IMAGES == 0 or done == len(items):
            draft.progress(done, 2 * len(items), "reading images")
    return hashed, findings


def _in_order(function: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Map over threads, in order, a bounded number at a time."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(items), CHUNK_IMAGES):
            yield from pool.map(function, items[start : start + CHUNK_IMAGES])


def _rows(
    cleaned: Cleaned, reference: Sequence[Hashed], classes: Sequence[str], config: IngestConfig
) -> list[Row]:
    """Return the index: every picture with its split, each split in a shuffled order of its own."""
    labels = [classes.index(picture.class_name) for picture in cleaned.kept]
    splits: Sequence[Split]
    if all(picture.split for picture in cleaned.kept):
        splits = [picture.split for picture in cleaned.kept]  # type: ignore[misc]
    elif config.num_folds:
        splits = split_fold(
            labels,
            cleaned.groups,
            num_folds=config.num_folds,
            fold=config.fold,
            val_share=config.val_share,
            seed=config.seed,
        )
    else:
        splits = split_groups(
            labels,
            cleaned.groups,
            val_share=config.val_share,
            test_share=0.0 if config.reference else config.test_share,
            seed=config.seed,
        )
    rows = [
        Row(picture.ref, picture.sha256, label, split, picture.ref)
        for picture, label, split in zip(cleaned.kept, labels, splits, strict=True)
    ]
    rows += [
        Row(picture.ref, picture.sha256, classes.index(picture.class_name), "test", picture.ref)
        for picture in reference
    ]
    shuffled: list[Row] = []
    for number, split in enumerate(SPLITS):
        own = sorted((row for row in rows if row.split == split), key=lambda row: (row.sha256, row.id))
        order = np.random.default_rng((config.seed, number)).permutation(len(own))
        shuffled += [own[k] for k in order]
    return shuffled


def _write_split(
    source: Source,
    rows: Sequence[Row],
    split: Split,
    num_classes: int,
    config: IngestConfig,
    draft: Draft,
    path: Path,
) -> None:
    """Write the shards of a split, one after another over the same local file."""
    per_shard = max(1, config.shard_bytes // record_bytes(config.image_size_pixels, num_classes))
    num_shards = -(-len(rows) // per_shard)

    def read(row: Row) -> NDArray[np.uint8]:
        return fit(source.read(row.source), config.image_size_pixels, config.fit)

    def records(shard_rows: Sequence[Row]) -> Iterable[bytes]:
        for row, pixels in zip(shard_rows, _in_order(read, shard_rows), strict=True):
            yield encode(row.id, pixels, one_hot(row.label, num_classes))

    for number in range(num_shards):
        count = write_records(path, records(rows[number * per_shard : (number + 1) * per_shard]))
        draft.put_file(shard_name(split, number, num_shards), path, num_records=count)
        draft.progress(number + 1, num_shards, f"writing {split}")


def _require_two(classes: Collection[str], name: str, findings: Sequence[Finding]) -> None:
    if len(classes) >= 2:
        return
    dropped = Counter[str]()
    for finding in findings:
        dropped[finding.kind] += len(finding.items)
    raise DataError(
        "After cleaning there is nothing left to tell apart.",
        expected="images of at least two classes",
        received=f"{len(classes)} classes; found: " + ", ".join(f"{n} {kind}" for kind, n in dropped.items()),
        where=name,
        remedy="Look at the first of them: " + "; ".join(f"{f.items[0]}: {f.reason}" for f in findings[:3]),
    )
