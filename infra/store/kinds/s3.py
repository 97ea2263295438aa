"""A store in S3, or in any server that speaks its protocol: s3://bucket/prefix."""

from __future__ import annotations

from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import STORES, StoreKind


def open_s3(address: str, settings: Settings) -> Store:
    """Return the store under a prefix of a bucket. Raises ConfigError for a name that no bucket has."""
    from hemaflow.infra.store.s3 import S3Store  # boto3 takes its time to load

    bucket, _, prefix = address.partition("/")
    return S3Store(bucket, prefix, settings)


STORES.register("s3")(StoreKind("s3://bucket/prefix", open_s3))
