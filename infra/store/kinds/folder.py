"""Stores in local folders: a path, or file:///path."""

from __future__ import annotations

from pathlib import Path

from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import STORES, StoreKind


def _open(path: str, settings: Settings) -> Store:
    return LocalStore(Path(path))


STORES.register("file")(StoreKind("a local folder", _open))
