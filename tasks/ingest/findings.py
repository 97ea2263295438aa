"""What ingest found, as it is kept in the result.

findings.npz        every finding, in columns (tasks/records/columns.py): kind, action and reason are texts,
                    num_items is int32; item holds the items (pictures, files, classes) of all findings, one
                    finding after another. Earlier versions kept findings.json
findings.tfrecord   a few pictures of each kind, where there are any (tasks/records/schema.py); a record's
                    id is the picture's name among the items, its label is empty
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemaflow.infra.results.draft import Draft
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.store.base import Store
from hemaflow.tasks.core.facts import IngestFacts
from hemaflow.tasks.ingest.fitted import FittedPictures
from hemaflow.tasks.records.columns import Columns, write_columns
from hemaflow.tasks.records.schema import encode, read_shards
from hemaflow.tasks.records.tfrecord import write_records
from hemaflow.tasks.sources.base import Finding

LIST, FORMER_LIST, PICTURES = "findings.npz", "findings.json", "findings.tfrecord"
PICTURES_PER_KIND = 8


def put_findings(
    findings: Sequence[Finding], fitted: FittedPictures, draft: Draft, scratch: Path
) -> dict[str, int]:
    """Write the findings, and pictures of them.

    Args:
        findings: What was found.
        fitted: The pictures that could be read.
        draft: The result.
        scratch: A file to write to.

    Returns:
        Kind of finding → number of items.
    """
    ordered = sorted(findings, key=lambda finding: (finding.kind, finding.items))
    draft.put(LIST, encode_findings(ordered))
    by_kind: dict[str, list[Finding]] = {}
    for finding in ordered:
        by_kind.setdefault(finding.kind, []).append(finding)
    shown = {ref: None for same in by_kind.values() for ref in _examples(same, fitted)}
    if shown:
        empty = np.zeros(0, np.float32)
        count = write_records(scratch, (encode(ref, fitted[ref], empty) for ref in shown))
        draft.put_file(PICTURES, scratch, num_records=count)
    return {kind: sum(len(finding.items) for finding in same) for kind, same in by_kind.items()}


def encode_findings(findings: Sequence[Finding]) -> bytes:
    """Return findings as findings.npz holds them."""
    return write_columns(
        {
            "kind": [finding.kind for finding in findings],
            "action": [finding.action for finding in findings],
            "reason": [finding.reason for finding in findings],
            "num_items": np.array([len(finding.items) for finding in findings], np.int32),
            "item": [item for finding in findings for item in finding.items],
        }
    )


def read_findings(store: Store, manifest: Manifest) -> list[Finding]:
    """Return the findings of a result of ingest, in the order of their kinds."""
    if not manifest.matching(LIST):
        return [Finding(**document) for document in json.loads(manifest.read(store, FORMER_LIST))]
    columns = Columns(manifest.path(store, LIST))
    kinds, actions, reasons = (columns.texts(name) for name in ("kind", "action", "reason"))
    items = iter(columns.texts("item"))
    return [
        Finding(kind, list(islice(items, num_items)), action, reason)
        for kind, action, reason, num_items in zip(
            kinds, actions, reasons, columns.array("num_items").tolist(), strict=True
        )
    ]


def read_pictures(store: Store, manifest: Manifest) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """Return the pictures of the findings of a result of ingest.

    Returns:
        Kind of finding → name of a picture → uint8[S, S, 3]. Kinds without pictures are left out.
    """
    if not manifest.matching(PICTURES):
        return {}
    size_pixels = IngestFacts.of(manifest).image_size_pixels
    records = read_shards([manifest.path(store, PICTURES)], size_pixels)
    pictures = {record.id: record.image for record in records}
    by_kind: dict[str, list[Finding]] = {}
    for finding in read_findings(store, manifest):
        by_kind.setdefault(finding.kind, []).append(finding)
    shown = {kind: _examples(same, pictures) for kind, same in by_kind.items()}
    return {kind: {ref: pictures[ref] for ref in refs} for kind, refs in shown.items() if refs}


def _examples(findings: Sequence[Finding], readable: Container[str]) -> list[str]:
    """Return names of a few pictures: the first of each finding, then the second of each, and so on."""
    in_turn = (ref for refs in zip_longest(*(finding.items for finding in findings)) for ref in refs)
    return list(islice((ref for ref in in_turn if ref is not None and ref in readable), PICTURES_PER_KIND))
