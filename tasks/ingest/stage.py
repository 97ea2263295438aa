"""The stage ingest: lists, cleans and splits images, and writes them as records.

Reads the source that --data names. Writes

    index.npz                          one row per image (tasks/records/index.py)
    train-…, val-…, test-….tfrecord    the images in the order of the index (tasks/records/schema.py)
    findings.npz, findings.tfrecord    everything that was dropped, grouped or unusual, and why
                                       (tasks/ingest/findings.py)

Guarantees: nothing is dropped without a finding. A picture and its near duplicates are in one split, unless
the source itself has them in two. The same content gives the same bytes, however it is listed. Each picture
is decoded once: a scratch file keeps it at its final size (tasks/ingest/fitted.py), so that memory grows only
with the hashes. Images in files need no TensorFlow.

With a reference set (tasks/ingest/reference_set.py), that set is the test split. Pictures of the source that
equal, or nearly equal, one of its pictures are dropped, and the others are divided into train and val. A
split `test` of the source becomes val: it was held out, so it is not trained on.

In a cross-validation (num_folds), the test split is one fold of all pictures; splits of the source do not
count, folds of the source are used. Over the folds, every picture is in the test split once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hemaflow.infra.errors import ConfigError, DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest, StoredObject
from hemaflow.infra.settings import current_settings
from hemaflow.tasks.core.facts import SPLITS, IngestFacts, Split
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.ingest.cleaning import Cleaned, Hashed, clean
from hemaflow.tasks.ingest.config import IngestConfig, ResolvedIngestConfig
from hemaflow.tasks.ingest.findings import put_findings
from hemaflow.tasks.ingest.fitted import FittedPictures
from hemaflow.tasks.ingest.gather import gather, missing_chunks
from hemaflow.tasks.ingest.parts import Chunk, OpenedSource, Part, share, write_part
from hemaflow.tasks.ingest.reference_set import (
    open_reference,
    reference_sha256,
    result_key,
)
from hemaflow.tasks.ingest.splitting import split_fold, split_groups, split_rest
from hemaflow.tasks.records.index import INDEX, Row, encode_index
from hemaflow.tasks.records.schema import encode, one_hot, record_bytes, shard_name
from hemaflow.tasks.records.tfrecord import write_records
from hemaflow.tasks.sources.base import Finding, Item, Scan, Source
from hemaflow.tasks.sources.registry import open_source

log = logging.getLogger(__name__)

MIN_CHUNKS = 4
"""Number of chunks from which several processes are worth their start; each takes as long as two chunks."""
THREADS_OF_WORKER = 2
"""Threads of each process that examines chunks: one reads while the other decodes."""
ITEMS_LOGGED = 6
WARNINGS = (
    "ambiguous-folders",
    "assumed-class-names",
    "class-spelling",
    "link",
    "split-folders",
    "unjudged-class",
    "untrained-class",
)
"""Kinds of findings that are logged in words: they say how the whole source, or a class, was read."""


def plan(parents: Parents, config: ResolvedIngestConfig, draft: Draft) -> list[Chunk]:
    """Return the chunks of pictures that are to be examined side by side, in order.

    There are none where `finish` is as fast without them: where little is left to examine, or where the
    source must be read from its beginning.

    Raises:
        DataError: The source holds nothing to learn from.
    """
    settings = current_settings()
    chunks: list[Chunk] = []
    with (
        open_source(parents.data, settings) as source,
        open_reference(config.reference, parents.store, settings) as reference,
    ):
        for one in (reference, source):
            if one.is_random_access:
                chunks += missing_chunks(one, one.scan().items, config, draft, one is reference)
    return chunks if len(chunks) >= MIN_CHUNKS else []


def write(parents: Parents, config: ResolvedIngestConfig, draft: Draft, chunk: Chunk) -> StoredObject | None:
    """Examine one chunk and commit it; return it unchanged where it is complete.

    Peak memory follows from HEMAFLOW_CHUNK_IMAGES, not from the number of images.

    Returns:
        None where a machine of a cluster cannot read the source: `finish` examines these pictures.

    Raises:
        StoreFull: The store has no space left.
        DataError: There is no such source.
    """
    try:
        source = _opened.of(chunk, parents, config, draft.key)
    except DataError:
        if not chunk.source_sha256:
            raise
        source = None
    if source is None:
        log.warning("A machine of the cluster cannot read %s: the images are read elsewhere.", parents.data)
        return None
    return write_part(source, chunk, config, draft, THREADS_OF_WORKER)


def finish(
    parents: Parents, config: ResolvedIngestConfig, draft: Draft, parts: Sequence[StoredObject]
) -> Manifest:
    """Write the data set. The pictures that are in no part are examined here.

    Raises:
        DataError: The source holds nothing to learn from.
        ConfigError: The source has folds of its own, and the config does not say which of them is test.
        StageError: The source or the reference set changed since the key was made.
    """
    settings = current_settings()
    with (
        scratch_folder() as folder,
        FittedPictures(folder / "pictures", config.image_size_pixels) as fitted,
        open_source(parents.data, settings) as source,
        open_reference(config.reference, parents.store, settings) as reference,
    ):
        fixed, referred, findings, used = _reference_pictures(reference, config, fitted, draft, parts)
        scan = source.scan()
        _require_folds(scan, source.name, config)
        items = [_with_split(item, config) for item in scan.items]
        gathered = gather(source, items, config, fitted, draft, parts, of_reference=False)
        cleaned = _clean(gathered.hashed, config, referred)
        findings += [*scan.findings, *gathered.findings, *cleaned.findings]
        trainable = {picture.class_name for picture in cleaned.kept}
        _require_two(trainable, source.name, findings)
        # Every source lists its classes in the order of their names.
        classes = sorted(trainable | {picture.class_name for picture in fixed})
        rows = _rows(cleaned, fixed, classes, config)
        for split in SPLITS:
            of_split = [row for row in rows if row.split == split]
            _write_split(fitted, of_split, split, len(classes), config, draft, folder)
        counts = {split: Counter(row.label for row in rows if row.split == split) for split in SPLITS}
        findings += _missing_classes(classes, counts)
        num_findings = put_findings(findings, fitted, draft, folder / "shard")
    _require_unchanged(parents, config, draft)
    share(draft, [*used, *gathered.parts])
    draft.put(INDEX, encode_index(rows))
    _log(findings, num_findings)
    return IngestFacts(
        classes=classes,
        image_size_pixels=config.image_size_pixels,
        num_examples={split: sum(counts[split].values()) for split in SPLITS},
        class_counts={split: [counts[split][k] for k in range(len(classes))] for split in SPLITS},
        source=source.name,
        num_findings=num_findings,
        reference=config.reference_sha256,
    ).commit(draft)


def run(parents: Parents, config: ResolvedIngestConfig, draft: Draft) -> Manifest:
    """Write the data set in this process. Raises what `finish` raises."""
    return finish(parents, config, draft, ())


_opened = OpenedSource()


def _require_unchanged(parents: Parents, config: ResolvedIngestConfig, draft: Draft) -> None:
    """Raise StageError where the data changed after the key of this result was made."""
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
    reference: Source,
    config: ResolvedIngestConfig,
    fitted: FittedPictures,
    draft: Draft,
    parts: Sequence[StoredObject],
) -> tuple[list[Hashed], list[Hashed], list[Finding], list[Part]]:
    """Return the pictures of the reference set, all of its source, the findings and the parts.

    The test split of a result of ingest is a reference set as it is; any other source is cleaned first.
    """
    scan = reference.scan()
    pictures, remarks, used = gather(reference, scan.items, config, fitted, draft, parts, of_reference=True)
    if result_key(config.reference):
        return pictures, pictures, remarks, used
    cleaned = _clean(pictures, config)
    return cleaned.kept, pictures, [*scan.findings, *remarks, *cleaned.findings], used


def _require_folds(scan: Scan, name: str, config: IngestConfig) -> None:
    """Raise ConfigError where the source has folds and the config neither uses nor replaces them."""
    num_folds = len({item.fold for item in scan.items if item.fold is not None})
    if not num_folds or config.reference or config.num_folds == num_folds:
        return
    raise ConfigError(
        f"The data is divided into {num_folds} folds, and the config does not say which is the test split.",
        expected=f"ingest.num_folds={num_folds} and ingest.fold from 0 to {num_folds - 1}",
        received=f"ingest.num_folds={config.num_folds}",
        where=name,
        remedy=f"Add --set ingest.num_folds={num_folds} --set ingest.fold=0 to test on the first fold. To "
        "divide the images anew, move the folders of the classes out of those of the folds. If these folders "
        "are classes, give them names of classes.",
    )


def _with_split(item: Item, config: IngestConfig) -> Item:
    """Return a picture with the split that is fixed before the pictures are divided; "" where none is.

    In a cross-validation, the tested fold of the source is test, and splits of the source do not count. With
    a reference set, the source's test split is val.
    """
    if config.num_folds:
        return item._replace(split="test" if item.fold == config.fold else "")
    return item._replace(split="val") if config.reference and item.split == "test" else item


def _clean(pictures: Sequence[Hashed], config: IngestConfig, reference: Sequence[Hashed] = ()) -> Cleaned:
    return clean(
        pictures,
        contaminant_copies=config.contaminant_copies,
        near_duplicate_bits=config.near_duplicate_bits,
        reference=reference,
    )


def _rows(
    cleaned: Cleaned, reference: Sequence[Hashed], classes: Sequence[str], config: IngestConfig
) -> list[Row]:
    """Return the index: the pictures of each split in a shuffled order."""
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[picture.class_name] for picture in cleaned.kept]
    splits = _splits(cleaned, labels, config)
    rows = [
        Row(picture.ref, picture.sha256, label, split, picture.ref)
        for picture, label, split in zip(cleaned.kept, labels, splits, strict=True)
    ]
    rows += [
        Row(picture.ref, picture.sha256, label_of[picture.class_name], "test", picture.ref)
        for picture in reference
    ]
    shuffled: list[Row] = []
    for number, split in enumerate(SPLITS):
        own = sorted((row for row in rows if row.split == split), key=lambda row: (row.sha256, row.id))
        order = np.random.default_rng((config.seed, number)).permutation(len(own))
        shuffled += [own[k] for k in order]
    return shuffled


def _splits(cleaned: Cleaned, labels: Sequence[int], config: IngestConfig) -> Sequence[Split]:
    """Return the split of each picture that is kept."""
    own = [picture.split for picture in cleaned.kept if picture.split]
    if len(own) == len(labels):
        return own
    groups, val_share, seed = cleaned.groups, config.val_share, config.seed
    if own:
        is_test = [picture.split == "test" for picture in cleaned.kept]
        return split_rest(labels, groups, is_test, num_folds=config.num_folds, val_share=val_share, seed=seed)
    if config.num_folds:
        return split_fold(
            labels, groups, num_folds=config.num_folds, fold=config.fold, val_share=val_share, seed=seed
        )
    test_share = 0.0 if config.reference else config.test_share
    return split_groups(labels, groups, val_share=val_share, test_share=test_share, seed=seed)


def _write_split(
    fitted: FittedPictures,
    rows: Sequence[Row],
    split: Split,
    num_classes: int,
    config: IngestConfig,
    draft: Draft,
    folder: Path,
) -> None:
    """Write the shards of a split, several at once, each through a local file."""
    per_shard = max(1, config.shard_bytes // record_bytes(config.image_size_pixels, num_classes))
    num_shards = -(-len(rows) // per_shard)

    def write_shard(number: int) -> None:
        of_shard = rows[number * per_shard : (number + 1) * per_shard]
        records = (encode(row.id, fitted[row.source], one_hot(row.label, num_classes)) for row in of_shard)
        name = shard_name(split, number, num_shards)
        count = write_records(folder / name, records)
        draft.put_file(name, folder / name, num_records=count)
        (folder / name).unlink()

    with ThreadPoolExecutor(current_settings().workers) as pool:
        for done, _ in enumerate(pool.map(write_shard, range(num_shards)), start=1):
            draft.progress(done, num_shards, f"writing {split}")


def _missing_classes(classes: Sequence[str], counts: Mapping[Split, Counter[int]]) -> list[Finding]:
    """Return findings of classes that no split judges, and of those that are not trained on."""
    findings = []
    for label, name in enumerate(classes):
        num = {split: counts[split][label] for split in SPLITS}
        if not num["train"]:
            reason = "no image of it is in train: the model cannot name it"
            findings.append(Finding("untrained-class", [name], "kept", reason))
        if not num["val"] and not num["test"]:
            reason = f"val and test have no image of it, train has {num['train']}: no metric judges it"
            findings.append(Finding("unjudged-class", [name], "kept", reason))
    return findings


def _log(findings: Sequence[Finding], num_findings: Mapping[str, int]) -> None:
    """Log the number of findings of each kind, and in words those that people should know at once."""
    for kind, count in num_findings.items():
        log.info("%s: %d", kind, count)
    for finding in findings:
        if finding.kind in WARNINGS:
            items = ", ".join(map(repr, finding.items[:ITEMS_LOGGED]))
            more = (
                f" and {len(finding.items) - ITEMS_LOGGED} more" if len(finding.items) > ITEMS_LOGGED else ""
            )
            log.warning("%s: %s%s %s: %s", finding.kind, items, more, finding.action, finding.reason)


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
