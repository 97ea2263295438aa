"""Registries: what exists in several kinds registers itself in the module that defines it.

    BACKBONES: Registry[Backbone] = Registry("backbone", "hemaflow.tasks.model.backbones")

    @BACKBONES.register("cnn")
    def cnn(…): …

Lists that a person sees (`--help`, errors, tables) are made from the registry. A registry that names a
package imports all modules of that package when it is first read, so that adding a kind is adding a file. The
module that owns such a registry declares the package in its constant `CODE_PACKAGES`: so the entries count in
the keys of stages that read the registry. If it is read by names of the config only, `CODE_TABLES` declares
the registry, and an entry counts only where it is named (`infra/results/fingerprint.py`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from threading import RLock
from typing import TypeVar

from hemaflow.infra.errors import ConfigError, nearest

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Name → entry, in the order of registration.

    Args:
        kind: What an entry is called in errors, such as `backbone`.
        package: A package whose modules register entries when imported; "" where all entries are registered
            by the module that owns the registry.
    """

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind, self._package, self._entries = kind, package, dict[str, Entry]()
        self._lock = RLock()

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that registers what it decorates under a name.

        Raises:
            ValueError: Another entry has that name.
        """

        def add(entry: Entry) -> Entry:
            if self._entries.setdefault(name, entry) is not entry:
                raise ValueError(f"There are two entries called {name!r} in the registry of {self.kind}s.")
            return entry

        return add

    def find(self, name: str) -> Entry:
        """Return the entry with that name.

        Raises:
            ConfigError: There is none; the error lists those that exist.
        """
        self._import_package()
        if name not in self._entries:
            raise ConfigError(f"There is no {self.kind} {name!r}.", expected=nearest(name, self._entries))
        return self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        """Return the entry with that name. Raises KeyError."""
        self._import_package()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        self._import_package()
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        self._import_package()
        return len(self._entries)

    def _import_package(self) -> None:
        """Import every module of the package once; other threads wait, the modules themselves do not."""
        with self._lock:
            package, self._package = self._package, ""
            if package:
                for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                    importlib.import_module(f"{package}.{module.name}")
