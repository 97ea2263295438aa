"""Uploads to S3: small files in one request, large ones in parts, in parallel, in bounded memory.

An interrupted upload is resumed: the server still has the complete parts. A part is reused only if its entity
tag is the MD5 of the bytes that we would send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, MultipartUploadTypeDef, PartTypeDef

PART_BYTES = 8 << 20
"""Size of a part. Servers keep parts in memory, so small parts cost them little."""
PARTS_AT_ONCE = 4
MAX_PARTS = 10_000
"""S3's limit."""


class Uploader:
    """Sends files to one bucket.

    Args:
        client: A boto3 client of S3.
        bucket: The bucket.
    """

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def upload(self, key: str, path: Path, metadata: dict[str, str]) -> None:
        """Upload a file, in parts if it is large. Parts of an interrupted upload are reused."""
        size = path.stat().st_size
        if size <= PART_BYTES:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=path.read_bytes(), Metadata=metadata)
            return
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        upload, sent = self._unfinished(key)
        if upload is None:
            upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, Metadata=metadata)[
                "UploadId"
            ]

        def send(number: int) -> CompletedPartTypeDef:
            data = _part(path, (number - 1) * part_bytes, part_bytes)
            tag = sent.get(number)
            if tag != f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"':
                tag = self._client.upload_part(
                    Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=data
                )["ETag"]
            return {"PartNumber": number, "ETag": tag}

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )

    def abort_unfinished(self, prefix: str, before: float) -> int:
        """Abort the uploads under a prefix that began before a time; return the bytes of their parts."""
        dropped = 0
        for upload in self._uploads(prefix):
            if upload["Initiated"].timestamp() < before:
                key, number = upload["Key"], upload["UploadId"]
                dropped += sum(part["Size"] for part in self._parts(key, number))
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=number)
        return dropped

    def _unfinished(self, key: str) -> tuple[str | None, dict[int, str]]:
        """Return the newest interrupted upload of a key, and the entity tags of its parts."""
        uploads = [upload for upload in self._uploads(key) if upload["Key"] == key]
        if not uploads:
            return None, {}
        newest = max(uploads, key=lambda upload: upload["Initiated"])["UploadId"]
        parts = self._parts(key, newest)
        return newest, {part["PartNumber"]: part["ETag"] for part in parts}

    def _uploads(self, prefix: str) -> Iterator[MultipartUploadTypeDef]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return (upload for page in pages for upload in page.get("Uploads", ()))

    def _parts(self, key: str, upload: str) -> list[PartTypeDef]:
        try:
            pages = list(
                self._client.get_paginator("list_parts").paginate(
                    Bucket=self._bucket, Key=key, UploadId=upload
                )
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchUpload":  # another process completed it
                return []
            raise
        return [part for page in pages for part in page.get("Parts", ())]


def _part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
