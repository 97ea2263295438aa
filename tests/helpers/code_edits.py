"""A copy of the code whose files a test edits, and how the keys of the stages change with it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hemaflow.flows.config.stages import STAGE_NAMES, STAGES, PipelineConfig
from hemaflow.flows.engine.engine import Engine
from hemaflow.infra.results.fingerprint import ROOT, Fingerprint, code_fingerprint, words
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.local import LocalStore


class EditedCode:
    """A copy of the code.

    Args:
        folder: Where it is made.
        config: The config whose keys are looked at.
        kind: The kind of the data source.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None, kind: str = "folder") -> None:
        self.root = folder / "code"
        for part in ("tasks", "infra"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, self.root / part, ignore=ignored)
        made = PipelineConfig.model_validate(config or {})
        engine = Engine(LocalStore(folder / "store"), made, "sample", Settings())
        documents = {stage: engine.stage_config(stage).key_document() for stage in STAGE_NAMES}
        self._names = {
            stage: words(document) | ({kind} if stage == "ingest" else set())
            for stage, document in documents.items()
        }
        self.before = self.fingerprints()

    def fingerprints(self, stages: Collection[str] = STAGE_NAMES) -> dict[str, Fingerprint]:
        """Return the fingerprint of each stage as the code is now."""
        return {
            stage: code_fingerprint(STAGES[stage].module_name, self._names[stage], self.root)
            for stage in STAGE_NAMES
            if stage in stages
        }

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace the one place of a file where `old` is."""
        text = (self.root / file).read_text()
        assert text.count(old) == 1, (file, old, text.count(old))
        (self.root / file).write_text(text.replace(old, new))

    def changed(self) -> list[str]:
        """Return the stages whose keys are others now, in order."""
        return [stage for stage, now in self.fingerprints().items() if now != self.before[stage]]
