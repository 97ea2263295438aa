"""What every stage has in common: a frozen config beside it, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hemaflow.infra.results.manifest import Manifest, StoredObject
from hemaflow.infra.store.base import Store


class StageConfig(BaseModel):
    """All that changes a stage's bytes; all of it enters the stage key."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    def resolved(self) -> StageConfig:
        """Return the config with what must be looked up (the hash of a file it names). Raises ConfigError."""
        return self

    def key_document(self) -> dict[str, Any]:
        """Return what of this config enters the stage key, as JSON values: all of it."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Parents:
    """The complete results that a stage builds on, and the store that holds them."""

    store: Store
    manifests: Mapping[str, Manifest]
    data: str = ""
    """What --data named; only the first stage reads it, and only its content enters the key."""

    def path(self, stored: StoredObject) -> Path:
        """Return a local, read-only file with an object's bytes, checked."""
        return self.store.path(stored.location, stored.sha256)

    def __getitem__(self, stage: str) -> Manifest:
        """Return the manifest of a parent stage, by the stage's name."""
        return self.manifests[stage]
