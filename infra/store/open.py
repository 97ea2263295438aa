"""The store that an address names.

Each kind of store is a module of infra/store/kinds, which registers here how its addresses are opened. Help
texts and errors are made from the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.registry import Registry
from hemaflow.infra.settings import Settings, current_settings
from hemaflow.infra.store.base import Store


class StoreKind(NamedTuple):
    """One kind of store."""

    form: str
    """What its addresses look like, in words."""
    open: Callable[[str, Settings], Store]
    """Called with what follows `scheme://`. Imports what it needs: a library may take its time to load."""


STORES: Registry[StoreKind] = Registry("store", "hemaflow.infra.store.kinds")
"""Scheme of an address → kind of store; an address without a scheme is that of a file."""
CODE_PACKAGES = ("hemaflow.infra.store.kinds",)


def open_store(url: str, settings: Settings | None = None) -> Store:
    """Open the store that an address names: a local folder, s3://bucket/prefix, or another kind's.

    Raises:
        ConfigError: It is of no kind.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "file", url
    if scheme not in STORES:
        raise ConfigError(
            "No store can be opened there.",
            expected=store_forms(),
            received=f"--store {scheme}://…",
            remedy="Give --store one of these.",
        )
    return STORES[scheme].open(rest, settings or current_settings())


def store_forms() -> str:
    """Return what `--store` may be, in words."""
    return ", or ".join(kind.form for kind in STORES.values())
