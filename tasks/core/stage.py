"""What all stages share: the base of their configs, and the results that they build on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from hemaflow.infra.results.manifest import Manifest, StoredObject
from hemaflow.infra.store.base import Store


@dataclass(frozen=True)
class OnlyWith:
    """Marks a field that has an effect only as another field of the same config is.

        focal_gamma: Annotated[float, OnlyWith("loss", ("focal",))] = 2.0

    Attributes:
        field: The other field.
        values: What it must be: one of these; where there are none, any but 0 and nothing.
        words: The condition in words, where `field=value` does not say it.
    """

    field: str
    values: tuple[object, ...] = ()
    words: str = ""

    def holds(self, config: Mapping[str, object]) -> bool:
        """Return whether the marked field has an effect, given the values of all fields."""
        value = config[self.field]
        return value in self.values if self.values else bool(value)

    def __str__(self) -> str:
        """Return the condition in words: `loss=focal`."""
        return self.words or f"{self.field}={' or '.join(map(str, self.values))}"


class StageConfig(BaseModel):
    """All that changes a stage's bytes; all of it enters the stage key.

    A field that has no effect as the others are (`OnlyWith`) has its default there, or the config is refused,
    and does not enter the key.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    @classmethod
    def without_effect(cls, config: Mapping[str, object]) -> dict[str, str]:
        """Return the fields that have no effect, each with the condition under which it has one.

        Args:
            config: The value of every field, in Python or as JSON.
        """
        return {
            name: str(condition)
            for name, info in cls.model_fields.items()
            for condition in info.metadata
            if isinstance(condition, OnlyWith) and not condition.holds(config)
        }

    @model_validator(mode="after")
    def _set_what_has_an_effect(self) -> Self:
        for name, condition in self.without_effect(dict(self)).items():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(
                    f"{name} has an effect only with {condition}. Leave {name} out, or change the other."
                )
        return self

    @property
    def needs_libraries(self) -> bool:
        """Whether the work needs the large libraries that its worker can import beforehand."""
        return True

    def resolved(self, store: Store) -> StageConfig:
        """Return the config with what must be looked up (the hash of a file it names). Raises ConfigError.

        Args:
            store: Holds the results that the config names.
        """
        return self

    def key_document(self) -> dict[str, object]:
        """Return what of this config enters the stage key, as JSON values: all that has an effect."""
        document = self.model_dump(mode="json", exclude=set(self.without_effect(dict(self))))
        groups = {name: getattr(self, name) for name in document}
        return document | {
            name: group.key_document() for name, group in groups.items() if isinstance(group, StageConfig)
        }

    def kinds_named(self) -> tuple[str, ...]:
        """Return the kinds of what this config names by a path: rows of tables that its words do not name."""
        return ()


@dataclass(frozen=True)
class Parents:
    """The complete results that a stage builds on, and the store that holds them."""

    store: Store
    manifests: Mapping[str, Manifest]
    data: str = ""
    """The argument of --data; only ingest reads it, and only its content enters the key."""

    def path(self, stored: StoredObject) -> Path:
        """Return a local, read-only file with the object's bytes, after checking them."""
        return self.store.path(stored.location, stored.sha256)

    def lend(self, stored: StoredObject) -> AbstractContextManager[Path]:
        """Lend a file as `path` returns it for as long as the context is open: its local copy may go then."""
        return self.store.lend(stored.location, stored.sha256)

    def __getitem__(self, stage: str) -> Manifest:
        """Return the manifest of a parent stage, by the stage's name."""
        return self.manifests[stage]
