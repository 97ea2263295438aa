"""Whether a Prefect server is set up, by PREFECT_API_URL or the active profile. Does not import Prefect."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

VARIABLE = "PREFECT_API_URL"


def has_server() -> bool:
    """Return whether the environment or Prefect's active profile names a server."""
    return bool(os.environ.get(VARIABLE) or _profile().get(VARIABLE))


def _profile() -> dict[str, object]:
    """Return the settings of Prefect's active profile; {} without one."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    name = os.environ.get("PREFECT_PROFILE") or document.get("active")
    found = document.get("profiles", {}).get(name, {})
    return found if isinstance(found, dict) else {}
