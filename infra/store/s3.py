"""A store in S3, or in any server that speaks its protocol.

Endpoint, region and credentials are found by boto3's usual means and stay there: no error, log or record
names them. Size and SHA-256 of every object go with it as metadata and are compared on every read: not every
server stores or checks S3's own checksums. What rests on conditional writes is refused on a server that
ignores them.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, TypeVar, Unpack

from botocore import exceptions as botocore_exceptions
from botocore.response import StreamingBody

from hemaflow.infra.errors import ConfigError, StoreError
from hemaflow.infra.settings import Settings
from hemaflow.infra.store.base import Entry, Stat, Store, check_name
from hemaflow.infra.store.s3_client import again_when_lost, reading_body, s3_client
from hemaflow.infra.store.s3_errors import ABSENT, error_code, explained, refused
from hemaflow.infra.store.s3_upload import Uploader
from hemaflow.infra.store.staging import READS, Altered, Fetch, Staging, Writer

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

READ_BYTES = 1 << 20
CONFLICT_SECONDS = 30.0
"""How long a write goes on that the server answers with a conflict: another writer's is under way."""
MARKER = "store.json"
"""The object that says that this server was seen to keep conditional writes."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
Result = TypeVar("Result")


class _Address(TypedDict):
    """Where an object is, in the words of S3."""

    Bucket: str
    Key: str


class _Answer(NamedTuple):
    """The answer to GET: the body, still to be read, the entity tag, and the SHA-256 sent with the object."""

    body: StreamingBody
    tag: str
    sha256: str


class _Condition(TypedDict, total=False):
    """On what a write depends: the object is absent (`IfNoneMatch="*"`), or has this entity tag."""

    IfMatch: str
    IfNoneMatch: str


class S3Store(Store):
    """A store under a prefix of a bucket.

    Args:
        bucket: The bucket; it must exist.
        prefix: What all names begin with in it; "" for none.
        settings: Time limits, and where local copies are.

    Raises:
        ConfigError: That is no bucket's name.
    """

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(
                "That is no name of a bucket.",
                expected="s3://bucket/prefix; credentials come from the environment or a profile",
                received="s3://…",
                remedy="Name an existing bucket: 3 to 63 small letters, digits, dots and hyphens.",
            )
        self._bucket, self._prefix = bucket, check_name(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._staging = Staging(settings.staging_dir, settings.staging_bytes)
        self._client = s3_client(settings.s3_timeout_seconds)
        self._uploader = Uploader(self._client, bucket)
        self._bucket_seen = False
        self._conditions_proven = False

    def get(self, name: str) -> bytes:
        """See Store."""
        found = self.get_tagged(name)
        if found is None:
            raise self.missing(name)
        return found[0]

    def get_tagged(self, name: str) -> tuple[bytes, str] | None:
        """See Store."""
        with self._explained(name):
            found = self._whole(name)
        return found[:2] if found else None

    def stat(self, name: str) -> Stat | None:
        """See Store."""
        with self._explained(name):
            try:
                head = self._client.head_object(**self._address(name))
            except botocore_exceptions.ClientError as error:
                if error_code(error) not in ABSENT:
                    raise
                self._require_bucket()  # the answer to HEAD does not say what is absent
                return None
        return Stat(head["ContentLength"], head["Metadata"].get("sha256", ""))

    def put(self, name: str, data: bytes) -> None:
        """See Store."""
        with self._explained(name):
            self._until_no_conflict(lambda: self._put(name, data))

    def put_file(self, name: str, path: Path, sha256: str) -> None:
        """See Store. Parts that an earlier upload of the same bytes got through are not sent again."""
        with self._explained(name):
            self._uploader.upload(self._key(name), path, {"sha256": sha256})
        with suppress(OSError):  # a full disk: whoever reads it here fetches it
            self._staging.adopt(sha256, _suffix(name), path)

    def create(self, name: str, data: bytes) -> bool:
        """See Store."""
        return self._conditional(name, data, IfNoneMatch="*")

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """See Store."""
        return self._conditional(name, data, IfMatch=tag)

    def delete(self, names: Iterable[str]) -> None:
        """See Store."""
        keys = [self._key(name) for name in names]
        for first in range(0, len(keys), 1000):
            batch: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys[first : first + 1000]]
            with self._explained(""):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
            for problem in answer.get("Errors", ()):
                if problem.get("Code") not in ABSENT:
                    raise StoreError(
                        f"The store could not remove an object: {problem.get('Code')}.",
                        where=f"s3://{self._bucket}/{problem.get('Key')}",
                        remedy="Check that its credentials may remove objects (s3:DeleteObject).",
                    )

    def entries(self, prefix: str) -> Iterator[Entry]:
        """See Store."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with self._explained(prefix):
            found = [
                Entry(
                    item["Key"].removeprefix(self._prefix),
                    item["Size"],
                    item["LastModified"].timestamp(),
                    item["ETag"],
                )
                for page in pages
                for item in page.get("Contents", ())
            ]
        # Not every server lists in byte order.
        yield from sorted(
            (entry for entry in found if entry.name != MARKER), key=lambda entry: entry.name.encode()
        )

    def path(self, name: str, sha256: str) -> Path:
        """See Store: a copy in the staging folder."""
        with self._fetching(name, sha256) as fetch:
            return self._staging.path(sha256, _suffix(name), fetch)

    @contextmanager
    def lend(self, name: str, sha256: str) -> Iterator[Path]:
        """See Store: a copy in the staging folder."""
        with ExitStack() as lent:
            with self._fetching(name, sha256) as fetch:
                path = lent.enter_context(self._staging.lend(sha256, _suffix(name), fetch))
            yield path

    def content_sha256(self, name: str) -> str:
        """See Store."""
        digest = hashlib.sha256()

        class Hashing:
            def write(self, data: bytes) -> int:
                digest.update(data)
                return len(data)

        with self._explained(name):
            self._fetch(name, Hashing(), 0)
        return digest.hexdigest()

    def download(self, name: str, path: Path) -> None:
        """Write an object's bytes, whoever put it there, to a new local file. Raises ObjectMissing."""
        with self._explained(name), path.open("wb") as file:
            self._fetch(name, file, 0)

    def drop_unfinished_writes(self, before: float) -> int:
        """See Store: uploads in parts that were never completed."""
        with self._explained(""):
            return self._uploader.abort_unfinished(self._prefix, before)

    # Requests

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return explained(f"{self.url}/{name}".rstrip("/"), self._staging.folder)

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _address(self, name: str) -> _Address:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _put(self, name: str, data: bytes, **condition: Unpack[_Condition]) -> None:
        self._client.put_object(
            **self._address(name), Body=data, Metadata={"sha256": _sha256(data)}, **condition
        )

    def _whole(self, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes, checked, and its entity tag; None where it is absent."""
        sha256 = ""
        for _ in range(READS):
            found = self._read_whole(name)
            if found is None:
                return None
            data, tag, sha256 = found
            if not sha256 or _sha256(data) == sha256:
                return data, tag
        raise self.altered(name, sha256)

    def _read_whole(self, name: str) -> tuple[bytes, str, str] | None:
        def read() -> tuple[bytes, str, str] | None:
            answer = self._open(name)
            if answer is None:
                return None
            with reading_body():
                return answer.body.read(), answer.tag, answer.sha256

        return again_when_lost(read)

    @contextmanager
    def _fetching(self, name: str, sha256: str) -> Iterator[Fetch]:
        """Yield what fetches an object into the staging folder; explain what fails."""
        with self._explained(name):
            try:
                yield lambda file, start: self._fetch(name, file, start)
            except Altered:
                raise self.altered(name, sha256) from None

    def _fetch(self, name: str, file: Writer, start: int) -> None:
        """Write an object's bytes from `start` on to a file; go on where a connection breaks."""
        written = start

        def read() -> None:
            nonlocal written
            answer = self._open(name, written)
            if answer is None:
                raise self.missing(name)
            chunks = answer.body.iter_chunks(READ_BYTES)
            while True:
                with reading_body():
                    chunk = next(chunks, b"")
                if not chunk:
                    return
                written += file.write(chunk)

        again_when_lost(read, lambda: written)

    def _open(self, name: str, start: int = 0) -> _Answer | None:
        """Return the answer to GET from that byte on, its body still to be read; None where it is absent."""
        try:
            if start:
                answer = self._client.get_object(**self._address(name), Range=f"bytes={start}-")
            else:
                answer = self._client.get_object(**self._address(name))
        except botocore_exceptions.ClientError as error:
            if error_code(error) in ABSENT:
                return None
            if error_code(error) in ("InvalidRange", "416") and start:
                return _Answer(StreamingBody(io.BytesIO(), 0), "", "")  # all of it had arrived
            raise
        return _Answer(answer["Body"], answer["ETag"], answer["Metadata"].get("sha256", ""))

    def _conditional(self, name: str, data: bytes, **condition: Unpack[_Condition]) -> bool:
        """Write under a condition; return whether it held."""
        with self._explained(name):
            self._prove_conditions()
            return self._until_no_conflict(lambda: self._put_if(name, data, **condition))

    def _put_if(self, name: str, data: bytes, **condition: Unpack[_Condition]) -> bool:
        try:
            self._put(name, data, **condition)
        except botocore_exceptions.ClientError as error:
            absent = "IfMatch" in condition and error_code(error) in ABSENT
            if error_code(error) not in ("PreconditionFailed", "412") and not absent:
                raise
            if not error.response["ResponseMetadata"].get("RetryAttempts"):
                return False
            # An earlier attempt may have gone through, and only its answer have been lost.
            found = self._whole(name)
            return found is not None and found[0] == data
        return True

    def _until_no_conflict(self, write: Callable[[], Result]) -> Result:
        """Write again while the server says that another write of the same object is under way."""
        deadline = time.monotonic() + CONFLICT_SECONDS
        while True:
            try:
                return write()
            except botocore_exceptions.ClientError as error:
                if (
                    error_code(error) not in ("ConditionalRequestConflict", "409")
                    or time.monotonic() > deadline
                ):
                    raise
                time.sleep(random.uniform(0.1, 0.5))  # noqa: S311

    def _prove_conditions(self) -> None:
        """Make sure, once for each store and endpoint, that the server keeps conditional writes.

        Raises:
            StoreError: It ignores them.
        """
        if self._conditions_proven:
            return
        endpoint = _sha256(self._client.meta.endpoint_url.encode())
        marker = self._whole(MARKER)
        if marker is None or endpoint not in json.loads(marker[0])["conditional_writes_proven"]:
            probe = f"probes/{secrets.token_hex(8)}"
            held = [
                self._put_if(probe, b"1", IfNoneMatch="*"),
                not self._put_if(probe, b"2", IfNoneMatch="*"),
                not self._put_if(probe, b"3", IfMatch=f'"{"0" * 32}"'),
            ]
            found = self._whole(probe)
            held.append(
                found is not None and found[0] == b"1" and self._put_if(probe, b"4", IfMatch=found[1])
            )
            self.delete([probe])
            if not all(held):
                raise StoreError(
                    "This server ignores conditional writes: two runs could overwrite each other's results.",
                    expected="If-None-Match and If-Match to be kept, as Amazon S3 and SeaweedFS do",
                    where=self.url,
                    remedy="Choose another store with --store: a local folder, or a server that keeps them.",
                )
            proven = json.loads(marker[0])["conditional_writes_proven"] if marker else []
            self._put(MARKER, json.dumps({"conditional_writes_proven": [*proven, endpoint]}).encode())
        self._conditions_proven = True

    def _require_bucket(self) -> None:
        if not self._bucket_seen:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except botocore_exceptions.ClientError as error:
                if error_code(error) in ABSENT:
                    raise refused("NoSuchBucket", self.url) from None
                raise
            self._bucket_seen = True


def _suffix(name: str) -> str:
    return Path(name).suffix


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
