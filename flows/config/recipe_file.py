"""Recipe files: a recipe as YAML, to be edited and run with `--recipe mine.yaml`.

    description: What it is for.
    data: cells.zip
    config:
      train: {batch_size: 32}

Fields that a file leaves out have their defaults.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from hemaflow.flows.config.changes import build
from hemaflow.flows.config.recipes import Recipe
from hemaflow.infra.errors import ConfigError

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1 << 20
"""The largest file that is read as a recipe."""


def is_recipe_file(name: str) -> bool:
    """Return whether `--recipe` names a file rather than a recipe."""
    return Path(name).suffix.lower() in SUFFIXES


def read_recipe(name: str) -> Recipe:
    """Return the recipe in a YAML or JSON file.

    Raises:
        ConfigError: There is no such file, it is no recipe, or its config is not valid.
    """
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                "The recipe file is too large.", expected=f"at most {MAX_BYTES} bytes", where=name
            )
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            "The recipe file cannot be read.",
            received=f"{type(error).__name__}: {' '.join(str(error).split())}",
            where=name,
            remedy="Start from a recipe: hemaflow recipes laptop > mine.yaml",
        ) from error
    known = {"description", "data", "config"}
    if (
        not isinstance(document, dict)
        or not document.keys() <= known
        or not isinstance(document.get("config", {}), dict)
    ):
        raise ConfigError(
            "The recipe file holds no recipe.",
            expected="a mapping with description, data and config (a mapping by stage)",
            received=", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__,
            where=name,
            remedy="Start from a recipe: hemaflow recipes laptop > mine.yaml",
        )
    description = str(document.get("description", ""))
    config = build(document.get("config") or {})
    return Recipe(
        path.stem, description.partition("\n")[0], description, str(document.get("data", "")), config
    )


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as the text of a recipe file."""
    document = {
        "description": recipe.description,
        "data": recipe.data,
        "config": recipe.config.model_dump(mode="json"),
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)
