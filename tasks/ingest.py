"""Bring images in: list, clean, split, and write them as records.

Reads the source that --data names. Writes

    index.csv                          one row per image (tasks/index.py)
    train-…, val-…, test-….tfrecord    the images in the order of the index (tasks/records.py)
    findings.json                      everything that was dropped, grouped or ignored, and why

Guarantees: nothing is dropped without a finding; a picture and its near duplicates are in one split, unless
the source itself has them in two; the same content gives the same bytes, in whatever order it is listed;
memory does not grow with the number of images, but for their hashes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from infra.draft import Draft
from infra.errors import DataError
from infra.manifest import Manifest
from infra.settings import current_settings
from tasks.cleaning import Hashed, clean, perceptual_hash
from tasks.images import Unreadable, fit
from tasks.index import SPLITS, Row, Split, write_index
from tasks.records import encode, one_hot, record_bytes, shard_name, write_shard
from tasks.scratch import scratch_folder
from tasks.sources import Finding, Item, Source, open_source
from tasks.splitting import split_groups
from tasks.stage import Parents, StageConfig

log = logging.getLogger(__name__)

CHUNK_IMAGES = 256
"""Images under way at once between reading and hashing or writing; bounds the memory."""

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class IngestConfig(StageConfig):
    """All that changes the data set."""

    image_size_pixels: Annotated[int, Field(ge=8, le=1024)] = 96
    """Every image is resized to this square: bicubic with antialiasing."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """What is done with an image that is not square: keep its middle, add black, or distort it."""
    val_share: Share = 0.15
    """Share of val, where the source has no split."""
    test_share: Share = 0.15
    """Share of test, where the source has no split."""
    seed: NonNegativeInt = 0
    """Of the split, and of the order of the images."""
    contaminant_copies: Annotated[int, Field(ge=2)] = 20
    """From how many identical copies on a picture is taken for no cell. Real duplicates come in twos and
    threes; the competition's contaminants came in hundreds."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)] = 40
    """Pictures whose 256-bit perceptual hashes differ in so many bits at most are kept in one split.

    Measured on 11,959 real cells of 96 px: copies saved again as JPEG of quality 40 are at most 14 bits away,
    copies shifted by one pixel at most 38; of two photographs that are not one cell the nearest are 54 apart.
    """
    shard_bytes: PositiveInt = 32 << 20
    """About how large a shard is."""

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> IngestConfig:
        if self.val_share + self.test_share >= 1.0:
            raise ValueError(
                "val_share and test_share leave nothing to train on: together they must be below 1"
            )
        return self


def run(parents: Parents, config: IngestConfig, draft: Draft) -> Manifest:
    """Write the data set. Raises DataError where the source holds nothing to learn from."""
    with scratch_folder() as folder, open_source(parents.data, current_settings()) as source:
        scan = source.scan()
        pictures, unreadable = _hash_all(source, scan.items, config, draft)
        cleaned = clean(
            pictures,
            contaminant_copies=config.contaminant_copies,
            near_duplicate_bits=config.near_duplicate_bits,
        )
        findings = [*scan.findings, *unreadable, *cleaned.findings]
        classes = [name for name in scan.classes if any(p.class_name == name for p in cleaned.kept)]
        _require_two(classes, source.name, findings)
        rows = _rows(cleaned.kept, cleaned.groups, classes, config)
        for split in SPLITS:
            of_split = [row for row in rows if row.split == split]
            _write_split(source, of_split, split, len(classes), config, draft, folder / "shard")
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
    kept: Sequence[Hashed], groups: Sequence[int], classes: Sequence[str], config: IngestConfig
) -> list[Row]:
    """Return the index: every picture with its split, each split in a shuffled order of its own."""
    labels = [classes.index(picture.class_name) for picture in kept]
    splits: Sequence[Split]
    if all(picture.split for picture in kept):
        splits = [picture.split for picture in kept]  # type: ignore[misc]
    else:
        splits = split_groups(
            labels, groups, val_share=config.val_share, test_share=config.test_share, seed=config.seed
        )
    rows = [
        Row(picture.ref, picture.sha256, label, split, picture.ref)
        for picture, label, split in zip(kept, labels, splits, strict=True)
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
        count = write_shard(path, records(rows[number * per_shard : (number + 1) * per_shard]))
        draft.put_file(shard_name(split, number, num_shards), path, num_records=count)
        draft.progress(number + 1, num_shards, f"writing {split}")


def _require_two(classes: Sequence[str], name: str, findings: Sequence[Finding]) -> None:
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
