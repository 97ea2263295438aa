from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from helpers.proxy import misbehaving
from hemaflow.infra.deploy.stack import BUCKET
from hemaflow.infra.errors import DataError, StoreError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.s3_folder import S3Folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(download_dir=tmp_path / "downloads")


@pytest.fixture
def bucket(s3_url: str) -> Any:
    """Put and remove files of others under the prefix of the test."""
    client, prefix = boto3.session.Session().client("s3"), s3_url.removeprefix(f"s3://{BUCKET}/")

    class Bucket:
        url = s3_url

        def put(self, name: str, data: bytes) -> None:
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)

        def remove(self, name: str) -> None:
            client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")

    return Bucket()


def content(folder: S3Folder) -> dict[str, bytes]:
    root = folder.fetch()
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_the_local_copy_follows_the_bucket(bucket: Any, settings: Settings) -> None:
    names = ["basophil/BA 1 (2).jpg", "platelet/ä.png"]
    for name in names:
        bucket.put(name, name.encode())
    first = S3Folder(bucket.url, settings)
    assert content(first) == {name: name.encode() for name in names}
    assert first.path.name == bucket.url.rpartition("/")[2]
    bucket.put(names[0], b"another")
    bucket.remove(names[1])
    bucket.put("new/file.png", b"new")
    second = S3Folder(bucket.url, settings)
    assert second.content_digest() != first.content_digest()
    assert content(second) == {names[0]: b"another", "new/file.png": b"new"}
    (second.path / "left.png").write_bytes(b"by a process that was killed")
    assert content(S3Folder(bucket.url, settings)) == {names[0]: b"another", "new/file.png": b"new"}


def test_the_content_is_told_without_fetching_and_nothing_is_fetched_twice(
    bucket: Any, settings: Settings, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        bucket.put(f"a/{number}.png", b"%d" % number)
    with misbehaving(s3_environment["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        digest = S3Folder(bucket.url, settings).content_digest()
        assert proxy.requests == {"GET": 1}
        S3Folder(bucket.url, settings).fetch()
        assert proxy.requests == {"GET": 2 + 5}
        again = S3Folder(bucket.url, settings)
        again.fetch()
        assert proxy.requests == {"GET": 3 + 5}
        assert again.content_digest() == digest


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "a//b.png", "a\\b.png"])
def test_no_file_is_written_elsewhere(bucket: Any, settings: Settings, name: str, monkeypatch: Any) -> None:
    folder = S3Folder(bucket.url, settings)
    from hemaflow.infra.store.base import Entry

    # Servers clean up such names when they are put; others may list them.
    monkeypatch.setattr(folder._store, "entries", lambda _: iter([Entry(name, 1, 0.0, "x")]))
    with pytest.raises(DataError, match="cannot be used"):
        folder.fetch()
    assert not list(settings.download_dir.parent.glob("*.png"))


def test_a_bucket_that_is_not_there_is_told(s3_url: str, settings: Settings) -> None:
    assert os.environ["AWS_ENDPOINT_URL_S3"]
    with pytest.raises(StoreError, match="There is no such bucket"):
        S3Folder("s3://no-such-bucket/cells", settings).fetch()
