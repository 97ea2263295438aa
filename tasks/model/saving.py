"""Saving a Keras model so that the same weights give the same bytes.

Keras writes the date of saving and the addresses of shared objects into its file. Without them, a repeated
training gives the same bytes, and the results that were made from the first one are reused.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from hemaflow.tasks.sources.archives import undated_entry

if TYPE_CHECKING:
    import keras


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model as a `.keras` file whose bytes depend on nothing but the model.

    Args:
        model: The model.
        path: The file to write; must end in `.keras`.
    """
    dated = path.with_name(f"dated-{path.name}")
    model.save(dated)
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            with target.open(undated_entry(name), "w", force_zip64=True) as member:
                if name.endswith(".json"):
                    member.write(_undated(source.read(name)))
                else:
                    with source.open(name) as content:
                        shutil.copyfileobj(content, member, 1 << 20)
    dated.unlink()


def _undated(data: bytes) -> bytes:
    content = json.loads(data)
    if isinstance(content, dict):
        content.pop("date_saved", None)
    return json.dumps(_numbered(content, {})).encode()


def _numbered(value: object, numbers: dict[object, int]) -> object:
    """Return a config in which shared objects are numbered in order of appearance, not named by address."""
    if isinstance(value, list):
        return [_numbered(item, numbers) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: numbers.setdefault(item, len(numbers))
        if name == "shared_object_id"
        else _numbered(item, numbers)
        for name, item in value.items()
    }
