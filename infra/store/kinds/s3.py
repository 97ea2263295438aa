"""Stores in S3, and in servers that speak as it does: s3://bucket/prefix."""

from __future__ import annotations

from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Store
from hemaflow.infra.store.open import STORES, StoreKind


def _open(address: str, settings: Settings) -> Store:
    from hemaflow.infra.store.s3 import S3Store  # boto3 takes its time to load

    bucket, _, prefix = address.partition("/")
    return S3Store(bucket, prefix, settings)


STORES.register("s3")(StoreKind("s3://bucket/prefix", _open))
