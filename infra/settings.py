"""Where and how a run happens: read from the environment, never part of any key or record.

What changes bytes is config (see the stages); what may differ between two machines that compute the same
bytes is here.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings read from `HEMAFLOW_…` variables."""

    model_config = SettingsConfigDict(
        env_prefix="HEMAFLOW_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    store: str = ".hemaflow"
    """The object store: a local folder."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processes that write shards side by side."""
    manual_dir: Path = Path("~/.cache/hemaflow/manual")
    """Folder of data files that were downloaded by hand."""
    download_dir: Path = Path("~/.cache/hemaflow/downloads")
    """Folder of data files that hemaflow downloaded."""
    stage_timeout_seconds: float = Field(default=24 * 3600.0, gt=0)
    """The longest that one stage, or one shard, may take."""
