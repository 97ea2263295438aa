"""The store that a URL names. Each kind of store is a module of infra/store/kinds, which registers itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.registry import Registry
from hemaflow.infra.settings import Settings, current_settings
from hemaflow.infra.store.base import Store


class StoreKind(NamedTuple):
    """A kind of store, registered under the scheme of its URLs."""

    form: str
    """What a URL of this kind looks like, for help texts and errors."""
    open: Callable[[str, Settings], Store]
    """Returns the store at what follows `scheme://`; loads the client library."""


STORES: Registry[StoreKind] = Registry("kind of store", "hemaflow.infra.store.kinds")
NO_SCHEME = "file"
"""The scheme of a URL without one: a path."""


def open_store(url: str, settings: Settings | None = None) -> Store:
    """Open the store that a URL names: `folder`, `file:///folder` or `s3://bucket/prefix`.

    Raises:
        ConfigError: There is no kind of store with that scheme.
    """
    scheme, separator, rest = url.partition("://")
    kind, address = (scheme, rest) if separator else (NO_SCHEME, url)
    if kind not in STORES:
        raise ConfigError(
            "No store can be opened there.",
            expected=store_forms(),
            received=f"--store {scheme}://…",
            remedy="Give --store one of these.",
        )
    return STORES[kind].open(address, settings or current_settings())


def store_forms() -> str:
    """Return what `--store` may be, in words."""
    return ", or ".join(kind.form for kind in STORES.values())
