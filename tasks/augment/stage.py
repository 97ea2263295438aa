"""The stage augment: the training split and its augmented copies, as TFRecord shards.

Reads the ingest result's facts and training records; writes `train-…-of-….tfrecord` (image
uint8[H, W, 3] in 0..255, label float32[C] that sums to 1, soft after CutMix and its like) and `preview.png`.

Guarantees that a shard's bytes follow from the images, the config and the shard's place in the plan. One
process makes a shard, serially; several processes make several shards. Which process makes which shard, and
in which order, changes no byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.errors import DataError, StageError
from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest, StoredObject
from hemaflow.tasks.augment.config import AugmentConfig
from hemaflow.tasks.augment.preview import Example, draw_sheet
from hemaflow.tasks.augment.shard_plan import Shard, plan_shards, spans
from hemaflow.tasks.core.facts import AugmentFacts, IngestFacts
from hemaflow.tasks.core.keras_import import load_keras
from hemaflow.tasks.core.scratch import scratch_folder
from hemaflow.tasks.core.stage import Parents
from hemaflow.tasks.layers.keras_cv_chain import chain_of
from hemaflow.tasks.records.schema import Record, encode, parse, read_shards, record_bytes
from hemaflow.tasks.records.tfrecord import read_records, write_records

PREVIEW_COLUMNS = 8
"""Pictures of each class on the preview sheet."""


def plan(parents: Parents, config: AugmentConfig) -> list[Shard]:
    """Return the shards to write, in order. Raises DataError where the training split is empty."""
    facts = IngestFacts.of(parents["ingest"])
    num_images = facts.num_examples["train"]
    if not num_images:
        raise DataError("The training split holds no image.", remedy="Choose other data with --data.")
    size = record_bytes(facts.image_size_pixels, len(facts.classes)) * config.records_per_image
    return plan_shards(num_images, size, config.shard_bytes)


def write(parents: Parents, config: AugmentConfig, draft: Draft, shard: Shard) -> StoredObject:
    """Write one shard and commit it; return it unchanged where it is complete.

    Peak memory follows from `shard_bytes`, not from the number of images. Raises StoreFull.
    """
    complete = draft.committed_part(shard.name)
    if complete is not None:
        return complete
    with scratch_folder() as folder:
        path = folder / shard.name
        records = _records(_read(parents, shard.first, shard.num_images), config, shard)
        num_records = write_records(path, (encode(*record) for record in records))
        stored = draft.put_file(shard.name, path, num_records=num_records)
    return draft.commit_part(stored)


def finish(parents: Parents, config: AugmentConfig, draft: Draft, parts: Sequence[StoredObject]) -> Manifest:
    """Draw the preview sheet and commit the stage; `parts` are all its shards."""
    planned = [shard.name for shard in plan(parents, config)]
    if sorted(part.name for part in parts) != planned:
        raise StageError(
            "The shards are not those of the plan.",
            expected=f"{len(planned)} shards",
            received=f"{len(parts)}",
            remedy="Run the same command again.",
        )
    for part in parts:
        draft.adopt(part)
    draft.put("preview.png", _preview(parents, config, {part.name: part for part in parts}))
    facts = IngestFacts.of(parents["ingest"])
    return AugmentFacts(
        num_examples=sum(part.num_records for part in parts),
        num_shards=len(parts),
        image_size_pixels=facts.image_size_pixels,
        classes=facts.classes,
    ).commit(draft)


def run(parents: Parents, config: AugmentConfig, draft: Draft) -> Manifest:
    """Write every shard, one after another in this process, and commit the stage."""
    shards = plan(parents, config)
    parts = []
    for done, shard in enumerate(shards, start=1):
        parts.append(write(parents, config, draft, shard))
        draft.progress(done, len(shards), "shards")
    return finish(parents, config, draft, parts)


class _Images(NamedTuple):
    ids: list[str]
    pixels: NDArray[np.uint8]  # [N, H, W, 3]
    labels: NDArray[np.float32]  # [N, C]


def _read(parents: Parents, first: int, num: int) -> _Images:
    """Read rows first..first+num-1 of the ingest result's training split."""
    facts, files = IngestFacts.of(parents["ingest"]), parents["ingest"].matching("train-")
    size, num_classes = facts.image_size_pixels, len(facts.classes)
    images = _Images([], np.empty((num, size, size, 3), np.uint8), np.empty((num, num_classes), np.float32))
    for span in spans([file.num_records for file in files], first, num):
        records = read_records(parents.path(files[span.file]))
        for read in islice(records, span.skip, span.skip + span.take):
            record, place = parse(read, size), len(images.ids)
            images.ids.append(record.id)
            images.pixels[place], images.labels[place] = record.image, record.label
    if len(images.ids) != num:
        raise StageError(
            "The training records end too early.",
            expected=f"rows {first} to {first + num - 1}",
            received=f"{len(images.ids)} of them",
            remedy="Run with --from ingest to build them again.",
        )
    return images


def _records(
    images: _Images, config: AugmentConfig, shard: Shard
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.float32]]]:
    """Augment, and yield a shard's records (id, image, label), shuffled: an image's copies are scattered."""
    num, copies = len(images.ids), range(0 if config.keep_original else 1, config.copies + 1)
    order = np.random.default_rng(_key(config.seed, shard.name, "order")).permutation(num * len(copies))
    rows, copy_numbers = order % num, np.asarray(copies)[order // num]
    pixels, labels = images.pixels[rows], images.labels[rows]
    augmented = np.flatnonzero(copy_numbers)
    if len(augmented):
        _augment(pixels, labels, augmented, config, shard)
    return (
        (f"{images.ids[row]}#{copy}" if copy else images.ids[row], image, label)
        for row, copy, image, label in zip(rows, copy_numbers, pixels, labels, strict=True)
    )


def _augment(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.float32],
    places: NDArray[np.intp],
    config: AugmentConfig,
    shard: Shard,
) -> None:
    """Augment the records at `places` in place, batch by batch."""
    load_keras()
    layers = tuple(layer.model_dump_json() for layer in config.layers)
    chain = chain_of(layers, config.batch_size, pixels.shape[1], labels.shape[1])
    for batch, start in enumerate(range(0, len(places), config.batch_size)):
        chosen = places[start : start + config.batch_size]
        # The last batch is filled up with its own images again: every batch has one shape, one trace.
        filled = np.resize(chosen, config.batch_size)
        new_pixels, new_labels = chain(pixels[filled], labels[filled], _key(config.seed, shard.name, batch))
        pixels[chosen], labels[chosen] = new_pixels[: len(chosen)], new_labels[: len(chosen)]


def _key(*parts: int | str) -> int:
    """Return a 63-bit random seed that follows from `parts` alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def _preview(parents: Parents, config: AugmentConfig, parts: dict[str, StoredObject]) -> bytes:
    """Return a PNG with a row for each class: its first images, each followed by some of its copies."""
    facts, shards = IngestFacts.of(parents["ingest"]), plan(parents, config)
    num_shown = min(config.copies, PREVIEW_COLUMNS - 1)
    rows = []
    for name, sources in zip(
        facts.classes, _first_of_each_class(parents, PREVIEW_COLUMNS // (1 + num_shown)), strict=True
    ):
        examples: list[Example] = []
        for place, source in sources:
            examples.append(Example("original", source.image, source.label))
            shard = next(s for s in shards if s.first <= place < s.first + s.num_images)
            wanted = {f"{source.id}#{copy}": copy for copy in range(1, num_shown + 1)}
            found = _find(parents.path(parts[shard.name]), facts.image_size_pixels, wanted.keys())
            copies = ((f"copy {wanted[key]}", found[key]) for key in wanted)
            examples.extend(Example(title, copy.image, copy.label) for title, copy in copies)
        rows.append((name, examples))
    return draw_sheet(rows, facts.classes)


def _first_of_each_class(parents: Parents, num: int) -> list[list[tuple[int, Record]]]:
    """Return the first `num` training images of each class, or as many as there are, each with its row."""
    facts = IngestFacts.of(parents["ingest"])
    found: list[list[tuple[int, Record]]] = [[] for _ in facts.classes]
    files = (parents.path(file) for file in parents["ingest"].matching("train-"))
    for place, record in enumerate(read_shards(files, facts.image_size_pixels)):
        sources = found[int(record.label.argmax())]
        if len(sources) < num:
            sources.append((place, record))
        elif all(len(sources) == num for sources in found):
            break
    return found


def _find(path: Path, size: int, wanted: Collection[str]) -> dict[str, Record]:
    """Return the records of a shard with the wanted ids."""
    records = read_shards([path], size) if wanted else ()
    return {record.id: record for record in records if record.id in wanted}
