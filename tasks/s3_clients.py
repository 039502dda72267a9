"""The two clients of S3: s3fs for listings and small objects, pyarrow's own for ranged Parquet reads.

Both take credentials from the usual AWS chain only (environment, profile, instance role), the endpoint from
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the region from AWS_REGION or AWS_DEFAULT_REGION. With
FINF_S3_REQUESTER_PAYS=1 s3fs serves both: pyarrow's client cannot say that the reader pays. Clients are cached per
process and per value of those variables, so a changed or rotated variable takes effect with the next call.
"""

import os
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from finf_core.errors import InputError

CONNECT_SECONDS = 5
SILENCE_SECONDS = 20  # without a byte from the server
NUM_ATTEMPTS = 2  # of one request; the callers retry whole units of work on top of this
NUM_BODY_ATTEMPTS = 2  # by s3fs, around those of botocore: a body that broke off is read again
PUT_SECONDS = 60  # see `put_deadline_seconds`
PUT_BYTES_PER_SECOND = 2**20  # a slower upload is given up

_IDENTITY_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "FINF_S3_REQUESTER_PAYS"),
)


def s3fs_filesystem() -> Any:
    """An `s3fs.S3FileSystem` that never serves a listing from memory. Raises InputError for a bad endpoint."""
    return _cached_s3fs(*_cache_key())


def arrow_filesystem() -> Any:
    """A filesystem of pyarrow. Raises InputError for a bad endpoint."""
    return _cached_arrow(*_cache_key())


def forget_clients() -> None:
    """Make new ones at the next call, with the credentials that the environment, profile or role then has."""
    _cached_s3fs.cache_clear()
    _cached_arrow.cache_clear()


def put_deadline_seconds(num_bytes: int) -> float:
    """How long one put may take in all: s3fs applies no timeout while a server that is silent owes "100 Continue"."""
    return PUT_SECONDS + num_bytes / PUT_BYTES_PER_SECOND


def _cache_key() -> tuple[object, ...]:
    """A client survives neither a fork nor a change of who we are or where we go."""
    return os.getpid(), *(os.environ.get(name) for name in _IDENTITY_VARIABLES)


@lru_cache(maxsize=4)
def _cached_s3fs(*key: object) -> Any:
    from s3fs import S3FileSystem  # half a second that work on local files need not wait for

    filesystem = S3FileSystem(
        endpoint_url=_endpoint(),
        client_kwargs={"region_name": _region()},
        config_kwargs={
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": NUM_ATTEMPTS},
        },
        max_concurrency=1,  # else every read of an object asks for its size first
        use_listings_cache=False,
        requester_pays=_requester_pays(),
        skip_instance_cache=True,  # fsspec's own cache does not see that the credentials changed
    )
    filesystem.retries = NUM_BODY_ATTEMPTS
    return filesystem


@lru_cache(maxsize=4)
def _cached_arrow(*key: object) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, FSSpecHandler, PyFileSystem, S3FileSystem

    if _requester_pays():
        return PyFileSystem(FSSpecHandler(s3fs_filesystem()))
    return S3FileSystem(
        endpoint_override=_endpoint(),
        region=_region(),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENCE_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=NUM_ATTEMPTS),
    )


def _requester_pays() -> bool:
    return os.environ.get("FINF_S3_REQUESTER_PAYS") == "1"


def _endpoint() -> str | None:
    """None means AWS itself."""
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    endpoint = os.environ.get(name) or None
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InputError(f"{name} must read http(s)://host:port, without a user name or a password in it")
    return endpoint


def _region() -> str | None:
    """None leaves it to the profile. (botocore on its own would not read AWS_REGION.)"""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
