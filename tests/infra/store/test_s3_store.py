"""What is S3's own: faults of the network, servers that cannot be trusted, secrets, cut transfers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from helpers.proxy import BUSY, FAULTS, RESET, STALLED, TRUNCATED, Proxy, misbehaving
from hemaflow.infra.deploy.stack import BUCKET
from hemaflow.infra.errors import ObjectAltered, StoreError
from hemaflow.infra.store import s3_upload
from hemaflow.infra.store.open import open_store
from hemaflow.infra.store.s3 import S3Store


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def client() -> Any:
    return boto3.session.Session().client("s3")


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Store:
    monkeypatch.setenv("HEMAFLOW_STAGING_DIR", str(tmp_path / "staging"))
    found = open_store(s3_url)
    assert isinstance(found, S3Store)
    return found


@pytest.fixture
def between(
    s3: S3Store, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, S3Store]]:
    """The same store, seen through a proxy."""
    with misbehaving(s3_environment["AWS_ENDPOINT_URL_S3"]) as (proxy, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("HEMAFLOW_S3_TIMEOUT_SECONDS", "0.5")
        through = open_store(s3.url)
        assert isinstance(through, S3Store)
        yield proxy, through


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_a_tenth_of_the_requests_is_seen(
    between: tuple[Proxy, S3Store], s3: S3Store, tmp_path: Path, fault: str
) -> None:
    proxy, through = between
    proxy.fault, proxy.share = fault, 0.1
    large = os.urandom(3 * s3_upload.PART_BYTES + 1)
    (tmp_path / "large").write_bytes(large)
    through.put_file("large", tmp_path / "large", sha256(large))
    (tmp_path / "large").unlink()
    for number in range(12):
        name, data = f"small/{number:02}", b"%d" % number
        assert through.create(name, data)
        assert not through.create(name, b"other")
        found = through.get_tagged(name)
        assert found is not None
        assert found[0] == data
        assert through.swap(name, data * 2, found[1])
        assert not through.swap(name, b"late", found[1])
        assert through.stat(name) == s3.stat(name)
    assert list(through.list("small/")) == [f"small/{number:02}" for number in range(12)]
    assert through.content_sha256("large") == sha256(large)
    assert proxy.faults >= 2
    proxy.fault = ""
    assert [s3.get(name) for name in s3.list("small/")] == [b"%d%d" % (n, n) for n in range(12)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (RESET, "cannot be reached: ConnectionClosedError"),
        (BUSY, "did not do what it was asked: (503|SlowDown)"),
        (TRUNCATED, "cannot be reached: ConnectionClosedError"),
    ],
)
def test_a_fault_that_stays_is_an_error_and_never_an_absence(
    between: tuple[Proxy, S3Store], s3: S3Store, fault: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    proxy, through = between
    s3.put("a", b"content")
    proxy.fault, proxy.share = fault, 1.0
    with pytest.raises(StoreError, match=expected) as raised:
        through.get_tagged("a")
    assert "same command" in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)


@pytest.mark.parametrize("fault", [STALLED, TRUNCATED])
def test_answers_that_break_off_are_asked_for_again(
    between: tuple[Proxy, S3Store], s3: S3Store, fault: str
) -> None:
    """Errors and listings too: what is absent is told as absent, however often an answer broke off."""
    proxy, through = between
    s3.put("a", b"1")
    proxy.fault, proxy.share = fault, 0.35
    for number in range(8):
        assert through.get_tagged(f"absent-{number}") is None
        assert list(through.list("")) == ["a"]
    assert proxy.faults >= 3


def test_a_fetch_goes_on_where_the_connection_broke(
    between: tuple[Proxy, S3Store], s3: S3Store, tmp_path: Path
) -> None:
    proxy, through = between
    data = os.urandom(4 << 20)
    s3.put("a", data)
    proxy.fault, proxy.share = TRUNCATED, 1.0  # each answer brings half of what is left
    with pytest.raises(StoreError, match="cannot be reached"):
        through.get("a")
    proxy.share = 0.5
    assert through.path("a", sha256(data)).read_bytes() == data


def test_an_upload_that_was_cut_goes_on(
    between: tuple[Proxy, S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, through = between
    data = os.urandom(10 * s3_upload.PART_BYTES)
    (tmp_path / "large").write_bytes(data)
    sent: list[int] = []
    read = s3_upload._part

    def cut(path: Path, start: int, size: int) -> bytes:
        sent.append(start)
        if len(sent) == 7:
            raise KeyboardInterrupt
        return read(path, start, size)

    monkeypatch.setattr(s3_upload, "_part", cut)
    with pytest.raises(KeyboardInterrupt):
        through.put_file("large", tmp_path / "large", sha256(data))
    monkeypatch.setattr(s3_upload, "_part", read)
    before = proxy.requests["PUT"]
    through.put_file("large", tmp_path / "large", sha256(data))
    assert proxy.requests["PUT"] - before <= 5
    assert through.content_sha256("large") == sha256(data)
    assert through.drop_unfinished_writes(before=time.time() + 60) == 0


def test_an_upload_never_goes_on_with_parts_of_other_bytes(s3: S3Store, tmp_path: Path) -> None:
    old, new = (os.urandom(2 * s3_upload.PART_BYTES) for _ in range(2))
    key = f"{s3.url.removeprefix(f's3://{BUCKET}/')}/large"
    upload = client().create_multipart_upload(Bucket=BUCKET, Key=key, Metadata={"sha256": sha256(new)})
    client().upload_part(
        Bucket=BUCKET,
        Key=key,
        UploadId=upload["UploadId"],
        PartNumber=1,
        Body=old[: s3_upload.PART_BYTES],
    )
    (tmp_path / "large").write_bytes(new)
    s3.put_file("large", tmp_path / "large", sha256(new))
    assert s3.content_sha256("large") == sha256(new)


def test_unfinished_uploads_are_dropped_when_they_are_old(s3: S3Store) -> None:
    key = f"{s3.url.removeprefix(f's3://{BUCKET}/')}/large"
    upload = client().create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    client().upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * (5 << 20))
    assert s3.drop_unfinished_writes(before=time.time() - 60) == 0
    assert s3.drop_unfinished_writes(before=time.time() + 60) == 5 << 20
    assert s3.drop_unfinished_writes(before=time.time() + 60) == 0


def test_a_server_that_ignores_conditions_is_refused_before_it_is_relied_on(
    between: tuple[Proxy, S3Store], s3: S3Store
) -> None:
    """Even where another server was proven for the same store."""
    proxy, through = between
    assert s3.create("proven", b"1")
    proxy.ignores_conditions = True
    for write in (lambda: through.create("a", b"1"), lambda: through.swap("a", b"1", '"tag"')):
        with pytest.raises(StoreError, match="ignores conditional writes"):
            write()
    assert list(through.list("")) == ["proven"]


def test_conditions_are_proven_once_for_a_store(between: tuple[Proxy, S3Store]) -> None:
    proxy, through = between
    through.create("a", b"1")
    first = proxy.requests.total()
    open_store(through.url).create("b", b"1")
    assert proxy.requests.total() - first == 2  # the marker and the write itself


def test_an_altered_body_is_an_error_and_no_content(s3: S3Store) -> None:
    s3.put("a", b"right")
    client().put_object(
        Bucket=BUCKET,
        Key=f"{s3.url.removeprefix(f's3://{BUCKET}/')}/a",
        Body=b"wrong",
        Metadata={"sha256": sha256(b"right")},
    )
    for read in (lambda: s3.get("a"), lambda: s3.path("a", sha256(b"right"))):
        with pytest.raises(ObjectAltered, match="hemaflow verify"):
            read()


def test_no_error_or_log_names_secrets_or_the_endpoint(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {
        "AWS_ENDPOINT_URL_S3": os.environ["AWS_ENDPOINT_URL_S3"],
        "AWS_ACCESS_KEY_ID": "AKIAWRONG",
        "AWS_SECRET_ACCESS_KEY": "wrong-secret",
    }
    caplog.set_level("DEBUG")
    said = []
    for url in (s3.url, "s3://no-such-bucket/x"):
        for changed in secrets:
            with monkeypatch.context() as patch:
                patch.setenv(
                    changed, secrets[changed] if changed != "AWS_ENDPOINT_URL_S3" else "http://127.0.0.1:1"
                )
                patch.setattr(time, "sleep", lambda _: None)
                with pytest.raises(StoreError) as raised:
                    open_store(url).get("a")
                said.append(str(raised.value))
                assert raised.value.__suppress_context__
    text = "\n".join([*said, caplog.text])
    for secret in ("AKIAWRONG", "wrong-secret", "127.0.0.1", os.environ["AWS_ACCESS_KEY_ID"]):
        assert secret not in text


def test_no_credentials_are_told_as_that(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(StoreError, match="There are no credentials for S3") as raised:
        open_store(s3.url).get("a")
    assert "AWS_PROFILE" in str(raised.value)


@pytest.mark.parametrize(("bucket", "expected"), [("no-such-bucket", "There is no such bucket")])
def test_what_will_not_get_better_is_told_at_once(
    between: tuple[Proxy, S3Store], bucket: str, expected: str
) -> None:
    proxy, _ = between
    absent = open_store(f"s3://{bucket}/x")
    for ask in (absent.get_tagged, absent.stat, lambda name: list(absent.list(name))):
        before = proxy.requests.total()
        with pytest.raises(StoreError, match=expected):
            ask("a")
        assert proxy.requests.total() - before <= 2
