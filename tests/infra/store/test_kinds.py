"""Kinds of store register under the scheme of their URLs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore
from hemaflow.infra.store.open import STORES, StoreKind, open_store, store_forms


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[None]:
    """A kind of store that a module adds."""

    def opened(address: str, settings: Settings) -> Store:
        return LocalStore(tmp_path / address)

    STORES.register("mirror")(StoreKind("mirror://name", opened))
    yield
    del STORES._entries["mirror"]


@pytest.mark.usefixtures("mirrored")
def test_a_registered_kind_is_opened_and_named(tmp_path: Path) -> None:
    assert open_store("mirror://cells").url == str(tmp_path / "cells")
    assert "mirror://name" in store_forms()


def test_a_path_is_a_folder_with_or_without_its_scheme(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)).url == open_store(f"file://{tmp_path}").url == str(tmp_path)


def test_an_unknown_scheme_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"a local folder, file:///folder, or s3://bucket/prefix"):
        open_store("mirror://cells")
