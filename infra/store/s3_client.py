"""The S3 client, with retries.

boto3 retries failed requests with growing pauses. This module adds what boto3 does not do: a retry if the
connection breaks while a body is read. boto3 finds endpoint, region and credentials by its usual means, and
no log names them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore import exceptions as botocore_exceptions
from botocore.client import Config
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 7
"""Number of attempts for a request; the pause between them doubles, up to 20 s."""
CONNECTIONS = 16
"""Limit of parallel requests, over all threads of a process."""

Result = TypeVar("Result")


def s3_client(timeout_seconds: float) -> S3Client:
    """Return an S3 client.

    Args:
        timeout_seconds: Timeout of a request without a received byte.
    """
    # Their records would name hosts.
    for logger in ("botocore", "boto3", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    client: S3Client = boto3.session.Session().client(
        "s3",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=min(10.0, timeout_seconds),
            read_timeout=timeout_seconds,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # We compare every read with our own SHA-256, and retry if it differs.
            response_checksum_validation="when_required",
        ),
    )

    def send(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Read small answers (errors, listings) to their end where botocore sees that one broke off.

        It would read them later, and then not ask again.
        """
        answer = client._endpoint.http_session.send(request)
        if answer.status_code >= 300 or not request.stream_output:
            try:
                _ = answer.content
            except HTTPError as error:
                raise botocore_exceptions.HTTPClientError(error=error) from error
        return answer

    client.meta.events.register("before-send.s3", send)
    return client


class Lost(Exception):
    """The connection broke while a body was read; boto3 does not retry this."""


@contextmanager
def reading_body() -> Iterator[None]:
    """Raise Lost if the connection breaks inside."""
    try:
        yield
    except (
        botocore_exceptions.HTTPClientError,
        botocore_exceptions.IncompleteReadError,
        HTTPError,
        OSError,
    ) as error:
        raise Lost from error


def again_when_lost(read: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
    """Call `read` again after each broken connection; give up when no more bytes arrive."""
    attempt, last = 0, progress()
    while True:
        try:
            return read()
        except Lost as error:
            attempt, last = (1, progress()) if progress() > last else (attempt + 1, last)
            if attempt >= ATTEMPTS:
                raise botocore_exceptions.ConnectionClosedError(endpoint_url="") from error
            time.sleep(random.uniform(0, min(20.0, 0.2 * 2**attempt)))  # noqa: S311
