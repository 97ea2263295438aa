"""A sample of benchmarks/key_mutations.py: edits of functions that ran in ingest change its key."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers.commands import ROOT
from helpers.executed import TRACING, is_transport, read_trace, unaccounted
from helpers.served import draw_cells
from hemaflow.flows.config.stages import PipelineConfig
from hemaflow.flows.engine.engine import Engine
from hemaflow.flows.engine.worker_process import Job
from hemaflow.infra.results.draft import silent
from hemaflow.infra.results.manifest import Manifest
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore


def loaded(path: Path) -> ModuleType:
    """Import a script that is in no package."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_loaded", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_edits_of_what_ran_in_ingest_change_its_key(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    mutations, tracing = (
        loaded(ROOT / "benchmarks" / "key_mutations.py"),
        loaded(TRACING / "sitecustomize.py"),
    )
    draw_cells(tmp_path / "cells", 0, 3)
    store = LocalStore(tmp_path / "store")
    engine = Engine(store, PipelineConfig(), str(tmp_path / "cells"), Settings(), until_stage="ingest")
    inputs = engine.inputs("ingest", {})
    config = engine.stage_config("ingest")
    job = Job("hemaflow.tasks.ingest.stage", "run", store.url, engine.data, {}, config, inputs)
    (tmp_path / "trace").mkdir()
    tracer, before = tracing.Tracer(tmp_path / "trace" / "own.tsv"), sys.gettrace()
    threading.settrace(tracer)
    sys.settrace(tracer)
    try:
        manifest = job.run(silent)
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]  # None: no trace function
    assert isinstance(manifest, Manifest)
    executed = sorted(read_trace(tmp_path / "trace"))
    assert list(unaccounted(executed, inputs.code)) == []
    watched = [
        mutations.Watched(each, inputs) for each in executed if mutations.worth_editing(each, inputs.code)
    ]
    assert len({(each.executed.file, each.executed.line) for each in watched}) > 60
    assert mutations.missed(watched, 10, seed=0, folder=tmp_path / "of ingest") == []
    # Code that no key holds: its edits are missed, and it is told.
    transport = [mutations.Watched(each, inputs) for each in executed if is_transport(each.file)]
    assert len(mutations.missed(transport, 3, seed=0, folder=tmp_path / "of transport")) == 3
