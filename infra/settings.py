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

    model_config = SettingsConfigDict(env_prefix="HEMAFLOW_", frozen=True, extra="ignore")

    store: str = Field(default=".hemaflow", description="Object store: a local folder, or s3://bucket/prefix.")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Processes that write shards side by side."
    )
    manual_dir: Path = Field(
        default=Path("~/.cache/hemaflow/manual"), description="Folder of data files downloaded by hand."
    )
    download_dir: Path = Field(
        default=Path("~/.cache/hemaflow/downloads"), description="Folder of data files downloaded by hemaflow."
    )
    stage_timeout_seconds: float = Field(default=24 * 3600.0, gt=0, description="Longest that one stage may take.")
