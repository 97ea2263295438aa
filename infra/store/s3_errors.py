"""Translates errors of S3 into hemaflow's. The texts of boto3 are dropped: they may name hosts and keys."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore import exceptions as botocore_exceptions
from urllib3.exceptions import HTTPError

from hemaflow.infra.errors import StoreError, StoreFull, StoreUnavailable
from hemaflow.infra.store.s3_client import ATTEMPTS

ABSENT = ("404", "NoSuchKey", "NotFound")
"""Error codes for an object that does not exist."""
_REFUSED = {
    "403": "The store refused access",
    "AccessDenied": "The store refused access",
    "InvalidAccessKeyId": "The store does not know these credentials",
    "SignatureDoesNotMatch": "The store does not take these credentials",
    "ExpiredToken": "The credentials have expired",
    "NoSuchBucket": "There is no such bucket",
}


@contextmanager
def explained(where: str, staging_folder: Path) -> Iterator[None]:
    """Raise hemaflow's error for each error of boto3.

    Args:
        where: The address that was requested.
        staging_folder: The folder of local copies.
    """
    try:
        yield
    except botocore_exceptions.ClientError as error:
        code = error_code(error)
        if code in _REFUSED:
            raise refused(code, where) from None
        if code in ("507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"):
            raise StoreFull(
                "The store is full: nothing of this object was kept.",
                where=where,
                remedy="Make room in the bucket (see `hemaflow gc`); then run the same command.",
            ) from None
        raise StoreUnavailable(
            f"The store did not do what it was asked: {code}.",
            received=f"{error.operation_name}, {ATTEMPTS} times",
            where=where,
            remedy="Run the same command again: it goes on from what is complete.",
        ) from None
    except (
        botocore_exceptions.NoCredentialsError,
        botocore_exceptions.PartialCredentialsError,
        botocore_exceptions.CredentialRetrievalError,
        botocore_exceptions.TokenRetrievalError,
    ):
        raise StoreError(
            "There are no credentials for S3.",
            where=where,
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from None
    except (botocore_exceptions.BotoCoreError, HTTPError) as error:
        raise StoreUnavailable(
            f"The store cannot be reached: {type(error).__name__}.",
            received=f"{ATTEMPTS} attempts",
            where=where,
            remedy="Check the network and the endpoint (AWS_ENDPOINT_URL_S3, or the profile's); the same "
            "command then goes on from what is complete.",
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise (StoreFull if full else StoreError)(
            f"A local copy could not be written: {error.strerror or type(error).__name__}.",
            where=str(staging_folder),
            remedy="Free some space there, or choose another folder with HEMAFLOW_STAGING_DIR.",
        ) from None


def refused(code: str, where: str) -> StoreError:
    """Return the error for a refusal that a retry will not change."""
    remedy = "Check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and their policy."
    if code == "NoSuchBucket":
        remedy = "Create the bucket, or choose another with --store."
    return StoreError(f"{_REFUSED[code]}.", where=where, remedy=remedy)


def error_code(error: botocore_exceptions.ClientError) -> str:
    """Return the error code of an answer, such as NoSuchKey; "" if it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))
