"""Saving a Keras model so that the same weights give the same bytes.

Keras writes the date of saving and the addresses of shared objects into its file. Without them, a training
that is repeated comes out the same, and what was made from it before is reused.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from hemaflow.tasks.sources.archives import undated_entry


def save_model(model: Any, path: Path) -> None:
    """Write a model as a `.keras` file whose bytes depend on nothing but the model.

    Args:
        model: A keras.Model.
        path: Where to; must end in `.keras`.
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


def _numbered(value: Any, numbers: dict[int, int]) -> Any:
    """Return a config whose shared objects have numbers in order of appearance instead of addresses."""
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
