"""A store in a folder of this machine: a path, or file:///path."""

from __future__ import annotations

from pathlib import Path

from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import STORES, StoreKind


def open_folder(path: str, settings: Settings) -> Store:
    """Return the store in a folder, which need not exist."""
    return LocalStore(Path(path))


STORES.register("file")(StoreKind("a local folder, file:///folder", open_folder))
