"""Settings: where and how a run happens. Read from the environment; never part of a key or record.

What changes bytes is config (see the stages). What may differ between two machines that compute the same
bytes is a setting.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from hemaflow.infra.errors import ConfigError


def available_cores() -> int:
    """Return the number of cores that this process may use: those of its CPU affinity, all where none is set.

    A quota of CPU time (a container's `cpus`, a pod's limit) is not an affinity: HEMAFLOW_WORKERS states it.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Settings(BaseSettings):
    """Settings read from `HEMAFLOW_…` variables."""

    model_config = SettingsConfigDict(
        env_prefix="HEMAFLOW_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    store: str = ".hemaflow"
    """The object store: a local folder, or s3://bucket/prefix."""
    workers: int = Field(default_factory=available_cores, ge=1)
    """Number of processes or threads that work in parallel on this machine."""
    devices: int = Field(default=0, ge=0)
    """Number of devices that train together; 0 takes all GPUs, or the CPU where there is none."""
    chunk_images: int = Field(default=1024, ge=1)
    """Number of images that ingest examines as one piece of work, which the store keeps; fewer where they
    are large. Data of a few such pieces is examined in one process."""
    manual_dir: Path = Path("~/.cache/hemaflow/manual")
    """Folder of data files that were downloaded by hand."""
    download_dir: Path = Path("~/.cache/hemaflow/downloads")
    """Folder of data files that hemaflow downloaded."""
    links_to: str = ""
    """Folders outside the data that links in the data may lead to, separated by colons."""
    staging_dir: Path = Path("~/.cache/hemaflow/staging")
    """Folder with local copies of the objects of a store in S3; processes share it."""
    staging_bytes: int = Field(default=20 * 2**30, ge=0)
    """Size limit of that folder, in bytes; copies in use are kept even beyond it."""
    stat_cache_dir: Path = Path("~/.cache/hemaflow/stat_cache")
    """Folder of the database of checksums: data files that did not change are not read again to hash them."""
    stat_cache_bytes: int = Field(default=2**30, ge=0)
    """Size limit of that database, in bytes; a file takes about 90 and the length of its name."""
    s3_timeout_seconds: float = Field(default=60.0, gt=0)
    """Timeout of a request to S3 without a received byte, after which it is retried."""
    lease_seconds: float = Field(default=30.0, ge=0)
    """Time after which a lease that nobody renews is ignored, so that a dead run blocks nobody; 0 turns
    leases off."""
    task_runner: Literal["threads", "dask", "ray"] = "threads"
    """What writes the shards: worker processes on this machine, or those of a Dask or Ray cluster."""
    cluster: str = ""
    """Address of the Dask scheduler or Ray head; if empty, a cluster is started on this machine for the run.
    """
    accelerator_slot: str = ""
    """Prefect's global concurrency limit to hold while an accelerator is used; none if empty."""
    stage_timeout_seconds: float = Field(default=24 * 3600.0, gt=0)
    """Timeout of one stage, or one shard."""

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
