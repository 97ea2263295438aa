"""Where images come from: one interface over folders, buckets, zips, npz files, BloodMNIST and drawn cells.

A source lists what it holds without decoding it (`scan`), and gives any picture on demand (`read`), so that
memory does not grow with the number of images. What it cannot use it lists as findings; a source that cannot
be used at all raises DataError. Nothing in a source is ever unpickled, unpacked next to other files, or
decompressed beyond what it declares.

Each kind of source is a module of tasks/sources/kinds, which registers its class here. Help texts and errors
are made from the registry.
"""

from __future__ import annotations

from pathlib import Path

from hemaflow.infra.errors import DataError, nearest
from hemaflow.infra.registry import Registry
from hemaflow.infra.settings import Settings
from hemaflow.tasks.sources.base import Source

SOURCES: Registry[type[Source]] = Registry("data source", "hemaflow.tasks.sources.kinds")
CODE_PACKAGES = ("hemaflow.tasks.sources.kinds",)
CODE_TABLES = ("SOURCES",)  # the kind of a source is in the key


def open_source(data: str, settings: Settings) -> Source:
    """Return the source that `--data` names, with its kind. A name goes before a file or folder of that name.

    Raises:
        DataError: There is none, or it cannot be used.
    """
    for name, kind in sorted(SOURCES.items(), key=lambda entry: data not in entry[1].names):
        source = kind.opened(data, settings)
        if source is not None:
            source.kind = name
            return source
    raise DataError(
        "There is no such data source.",
        expected=f"{_paths()}, or a name. {nearest(data, source_names())}",
        received=f"--data {data}" + ("" if Path(data).expanduser().exists() else " (no such file)"),
        remedy="Check the path, or try the drawn cells first: --data sample",
    )


def source_names() -> list[str]:
    """Return the names of sources that need no path."""
    return [name for kind in SOURCES.values() for name in kind.names]


def source_forms() -> str:
    """Return what `--data` may be, in words."""
    return f"{_paths()}, or one of: {', '.join(source_names())}"


def _paths() -> str:
    return ", ".join(kind.form for kind in SOURCES.values() if not kind.names)
