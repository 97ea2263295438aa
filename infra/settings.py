"""Where and how a run happens: read from the environment, never part of any key or record.

What changes bytes is config (see the stages); what may differ between two machines that compute the same
bytes is here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from hemaflow.infra.errors import ConfigError


def _num_cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Settings(BaseSettings):
    """Settings read from `HEMAFLOW_…` variables."""

    model_config = SettingsConfigDict(
        env_prefix="HEMAFLOW_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    store: str = ".hemaflow"
    """The object store: a local folder, or s3://bucket/prefix."""
    workers: int = Field(default_factory=_num_cores, ge=1)
    """Processes that write shards side by side."""
    manual_dir: Path = Path("~/.cache/hemaflow/manual")
    """Folder of data files that were downloaded by hand."""
    download_dir: Path = Path("~/.cache/hemaflow/downloads")
    """Folder of data files that hemaflow downloaded."""
    links_to: str = ""
    """Folders outside the data that links in the data may lead to, separated by colons."""
    staging_dir: Path = Path("~/.cache/hemaflow/staging")
    """Folder of local copies of objects of a store in S3; processes share it."""
    staging_bytes: int = Field(default=20 * 2**30, ge=0)
    """How much of it is kept that no process uses, in bytes."""
    s3_timeout_seconds: float = Field(default=60.0, gt=0)
    """How long a request to S3 may go without a byte before it is made again."""
    lease_seconds: float = Field(default=30.0, ge=0)
    """How long another run waits for a stage that nobody was seen to work on; 0 for runs that never wait."""
    task_runner: Literal["threads", "dask", "ray"] = "threads"
    """Who writes shards: worker processes on this machine, or those of a Dask or Ray cluster."""
    cluster: str = ""
    """The address of the Dask scheduler or Ray head; a cluster on this machine, for the run, where empty."""
    accelerator_slot: str = ""
    """Prefect's global concurrency limit that is held while an accelerator is used; none where empty."""
    stage_timeout_seconds: float = Field(default=24 * 3600.0, gt=0)
    """The longest that one stage, or one shard, may take."""

    @property
    def link_folders(self) -> list[Path]:
        """The folders of `links_to`."""
        return [Path(folder) for folder in self.links_to.split(os.pathsep) if folder]


def current_settings() -> Settings:
    """Return the settings of the environment. Raises ConfigError."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"HEMAFLOW_{first['loc'][0]}".upper()
        raise ConfigError(
            f"A setting cannot be used: {first['msg']}.",
            received=f"{variable}={first['input']}",
            remedy=f"Change the environment variable {variable}, or unset it.",
        ) from None
