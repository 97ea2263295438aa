"""The store that a URL names."""

from __future__ import annotations

from pathlib import Path

from hemaflow.infra.errors import ConfigError
from hemaflow.infra.settings import Settings, current_settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.local import LocalStore


def open_store(url: str, settings: Settings | None = None) -> Store:
    """Open the store that `url` names: a local folder (a path, or file://…), or s3://bucket/prefix.

    Raises:
        ConfigError: It names neither.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStore(Path(url))
    if scheme == "file":
        return LocalStore(Path(rest))
    if scheme == "s3":
        from hemaflow.infra.store.s3 import S3Store  # boto3 takes its time to load

        bucket, _, prefix = rest.partition("/")
        return S3Store(bucket, prefix, settings or current_settings())
    raise ConfigError(
        "No store can be opened there.",
        expected="a local folder, file:///folder, or s3://bucket/prefix",
        received=f"--store {scheme}://…",
        remedy="Give --store one of these.",
    )
