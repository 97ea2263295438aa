"""Bring images in: list, clean, split, and write them as records.

Reads the source that --data names. Writes

    index.csv                          one row per image (tasks/index.py)
    train-…, val-…, test-….tfrecord    the images in the order of the index (tasks/records.py)
    findings.json                      everything that was dropped, grouped or ignored, and why

Guarantees: nothing is dropped without a finding; a picture and its near duplicates are in one split, unless
the source itself has them in two; the same content gives the same bytes, in whatever order it is listed;
memory does not grow with the number of images, but for their hashes. Images in files need no TensorFlow.

With a reference set (tasks/reference.py), the test split is that set, whatever the source holds: what of the
source is a picture of it, or nearly, is dropped, and the rest is divided into train and val. A split `test`
of the source's own becomes val: somebody held it out, and it is not learnt from.

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
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from infra.draft import Draft
from infra.errors import DataError, StageError
from infra.manifest import Manifest
from infra.settings import current_settings
from tasks.cleaning import Cleaned, Hashed, clean, perceptual_hash
from tasks.examples import write_records
from tasks.images import Fit, Unreadable, fit
from tasks.index import SPLITS, Row, Split, write_index
from tasks.records import encode, one_hot, record_bytes, shard_name
from tasks.reference import absolute, check_reference, open_reference, reference_sha256, result_key
from tasks.scratch import scratch_folder
from tasks.sources import Finding, Item, Source, open_source
from tasks.splitting import split_fold, split_groups
from tasks.stage import Parents, StageConfig

log = logging.getLogger(__name__)

CHUNK_IMAGES = 256
"""Images under way at once between reading and hashing or writing; bounds the memory."""

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class IngestConfig(StageConfig):
    """All that changes the data set."""

    image_size_pixels: Annotated[int, Field(ge=8, le=1024)] = 96
    """Every image is resized to this square: bicubic with antialiasing."""
    fit: Fit = "crop"
    """What is done with an image that is not square: keep its middle, add black, or distort it."""
    val_share: Share = 0.15
    """Share of val, where the source has no split."""
    test_share: Share = 0.15
    """Share of test, where the source has no split and there are neither reference nor folds."""
    num_folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Of a cross-validation: the pictures are divided into so many folds of equal shares; 0 for none."""
    fold: NonNegativeInt = 0
    """Which of the folds is test, from 0."""
    reference: str = ""
    """Where the test split comes from instead: a data source as for --data, or `ingest:KEY`, the test split
    of that result of ingest in the same store. Empty: from --data."""
    reference_sha256: str = ""
    """Of the reference's content: what enters the key instead of its path. Filled in from the reference."""
    seed: NonNegativeInt = 0
    """Of the split or the folds, and of the order of the images."""
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

    @field_validator("reference")
    @classmethod
    def _known_form(cls, reference: str) -> str:
        return check_reference(reference)

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> IngestConfig:
        test_share, named = self.test_share, "test_share"
        if self.num_folds:
            test_share, named = 1.0 / self.num_folds, "a fold"
        if self.val_share + test_share >= 1.0:
            raise ValueError(
                f"val_share and {named} leave nothing to train on: together they must be below 1"
            )
        return self

    @model_validator(mode="after")
    def _one_fold_of_several(self) -> IngestConfig:
        if self.fold >= max(self.num_folds, 1):
            raise ValueError(
                f"there is no fold {self.fold}: with num_folds={self.num_folds}, "
                + (f"the last is {self.num_folds - 1}" if self.num_folds else "there are none")
            )
        if self.num_folds and self.reference:
            raise ValueError(
                "num_folds and reference exclude each other: the test split is a fold, or it is the reference"
            )
        return self

    def resolved(self) -> IngestConfig:
        """Return the config with the digest of its reference. Raises DataError where there is none."""
        if not self.reference:
            return self
        sha256 = reference_sha256(self.reference, current_settings())
        return self.model_copy(update={"reference": absolute(self.reference), "reference_sha256": sha256})

    def key_document(self) -> dict[str, Any]:
        """Return what enters the key: of a reference its content, not where it lies."""
        document = super().key_document()
        if not result_key(self.reference):
            document["reference"] = ""
        return document


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
