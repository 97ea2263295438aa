"""What the matrices of crashes and faults share: a run small enough to be made often, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hemaflow.flows.runs.record import page_name
from hemaflow.infra.results.manifest import Manifest, load_manifest
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--set", "ingest.image_size_pixels=32",
    "--set", "augment.shard_bytes=800000",
    "--set", "train.fine_tuning.epochs=3",
    "--set", "evaluate.bootstrap_resamples=50",
    "--set", "evaluate.robustness=none",
]  # fmt: skip
"""The demo with small pictures: a few shards, three epochs."""


class Done(NamedTuple):
    """How a command ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


def run(store: Store, *arguments: str, environment: Mapping[str, str], seconds: float = 900) -> Done:
    """Run the pipeline of this checkout on small pictures, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hemaflow", "run", "--store", store.url, "--json", *SMALL, *arguments],
        cwd=ROOT,
        env={**os.environ, "HEMAFLOW_WORKERS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, err)


def manifest(store: Store, stage: str) -> Manifest | None:
    """Return the one complete result of a stage; None where there is none, or more."""
    keys = {name.split("/")[2] for name in store.list(f"stages/{stage}/") if name.endswith("/manifest.json")}
    found = load_manifest(store, stage, keys.pop()) if len(keys) == 1 else None
    return found[0] if found else None


def copy(source: LocalStore, target: Store, stage: str) -> None:
    """Copy the complete result of a stage to another store."""
    for name in source.list(f"stages/{stage}/"):
        target.put_file(name, source.root / name, source.content_sha256(name))


def unaccounted(store: Store) -> list[str]:
    """Return the objects that no manifest and no record names, and that are no page of a run."""
    known = {name for name in store.list("") if name.endswith("/manifest.json") or name.startswith("runs/")}
    known |= {page_name(name.removeprefix("runs/").removesuffix(".json")) for name in store.list("runs/")}
    for name in list(known):
        if name.endswith("/manifest.json"):
            found = load_manifest(store, *name.split("/")[1:3])
            known |= {stored.location for stored in found[0].objects} if found else set()
    return [name for name in store.list("") if name not in known]
