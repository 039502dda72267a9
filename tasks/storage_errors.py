"""The one boundary where the errors of storage clients become ours.

Four libraries, four shapes: botocore raises its own classes, s3fs turns some of them into OSError with the
botocore error as the cause, aiohttp's come through bare when a body breaks off, and pyarrow raises a plain
OSError whose text holds "AWS Error CODE during Operation". What the caller can do decides:

    not there, not allowed, refused (4xx), corrupt  -> InputError    never retried
    no answer, 5xx, throttled, broken off           -> StorageError  retried
    credentials expired, disk full                  -> StorageError  retried: somebody can mend it while we wait
    out of memory                                   -> CapacityError

Texts of access errors are ours alone, and a credential of the environment never appears in any text.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from aiohttp import ClientError as HttpError
from botocore import exceptions as boto  # type: ignore[import-untyped]
from pyarrow import ArrowException, ArrowMemoryError

from finf_core.errors import CapacityError, FinfError, InputError, StorageError
from tasks.filesystems import locate
from tasks.s3_clients import forget_clients

FOREIGN_ERRORS = (OSError, HttpError, boto.BotoCoreError, boto.ClientError, ArrowException, RecursionError)

_ARROW_ERROR = re.compile(r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during \w+ operation")
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)
_WRONG_REQUEST = (boto.ParamValidationError, boto.InvalidRegionError, RecursionError)  # recursion: redirects
_ACCESS_CODES = {
    *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"),
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE"),
    *("INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT", "MISSING_AUTHENTICATION_TOKEN"),
}
_EXPIRED = re.compile("ExpiredToken|TokenRefreshRequired|RequestExpired|EXPIRED_TOKEN|REQUEST_EXPIRED")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MISSING_CODES = {"NoSuchKey", "NoSuchBucket", "NO_SUCH_KEY", "NO_SUCH_BUCKET", "RESOURCE_NOT_FOUND"}
# 4xx, and yet another attempt may succeed: the request was damaged or delayed on its way
_TRANSIENT_4XX = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "OperationAborted"}
_TRANSIENT_STATUS = {408, 409, 425, 429}
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class _Answer(NamedTuple):
    """What the server said, as far as it can be found in the error."""

    code: str = ""
    status: int = 0


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn every foreign error of the block into one of ours that names `uri`.

    Raises:
        InputError: missing, access denied, or refused by the server.
        StorageError: no answer, a server error, or an answer that broke off.
        CapacityError: out of memory.
    """
    try:
        yield
    except FOREIGN_ERRORS as error:
        _raise_ours(uri, error)


@contextmanager
def parquet_errors(uri: str) -> Iterator[None]:
    """As `storage_errors`, for a block that parses Parquet: what is not a failure of storage is a corrupt file."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        if _is_corruption(error):
            raise InputError(f"{uri}: not a readable Parquet file ({_one_line(error)})") from error
        if _is_wordless(_answer(error)):
            _ask_why(uri, error)
        _raise_ours(uri, error)


def _is_wordless(answer: _Answer) -> bool:
    """Whether pyarrow knows only that the server refused: a HEAD has no body, and that of a GET it does not read."""
    return answer.code == "ACCESS_DENIED" or (answer.code == "UNKNOWN" and 400 <= answer.status < 500)


def _ask_why(uri: str, error: Exception) -> None:
    """Have the other client ask for one byte, for its error says why. Where that goes well, the refusal is over."""
    filesystem, path = locate(uri)
    with storage_errors(uri):
        filesystem.cat_file(path, 0, 1)
    raise StorageError(f"storage refused {uri} for a moment; try again later") from error


def _is_corruption(error: Exception) -> bool:
    """pyarrow reports corruption as ArrowInvalid, or as an OSError that no operating system and no server gave."""
    if isinstance(error, ArrowMemoryError):
        return False
    if isinstance(error, ArrowException):
        return True
    return type(error) is OSError and error.errno is None and not _answer(error).code


def _raise_ours(uri: str, error: Exception) -> None:
    answer = _answer(error)
    if _is_expired(error, answer):
        forget_clients()  # the next ones look for credentials anew
        raise StorageError(f"the credentials for {uri} have expired; renew them, then it goes on") from None
    if _is_access_denied(error, answer):
        raise _access_denied(uri, answer.code or type(error).__name__) from None  # foreign texts may quote the request
    raise _ours(uri, error, answer) from error


def _ours(uri: str, error: Exception, answer: _Answer) -> FinfError:
    if isinstance(error, ArrowMemoryError):
        return CapacityError(f"{uri}: out of memory while reading it ({_one_line(error)})")
    if isinstance(error, FileNotFoundError) or answer.status == 404 or answer.code in _MISSING_CODES:
        return InputError(f"{uri} does not exist")
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return InputError(f"{uri} is not an object, or a part of its path is not a folder ({_one_line(error)})")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return InputError(f"{uri}: the name is too long for this file system; shorten it")
    if isinstance(error, _WRONG_REQUEST) or _is_refusal(answer):
        return InputError(
            f"storage refused {uri} ({_one_line(error)}); check the name, the region and AWS_ENDPOINT_URL"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return StorageError(f"no space left for {uri}; make room on that disk, then it goes on")
    return StorageError(f"no complete answer from storage for {uri} ({_one_line(error)}); try again later")


def is_there_already(error: OSError) -> bool:
    """Whether an object was not written because there is one, and only a first one was to be written."""
    return isinstance(error, FileExistsError) or _answer(error).code == "PreconditionFailed"


def _is_expired(error: Exception, answer: _Answer) -> bool:
    """By the code, or by the text of pyarrow, which knows fewer codes than the server."""
    return bool(_EXPIRED.search(answer.code) or (answer.status in (400, 403) and _EXPIRED.search(str(error))))


def _is_access_denied(error: Exception, answer: _Answer) -> bool:
    denied = (*_NO_CREDENTIALS, PermissionError)
    return isinstance(error, denied) or answer.status in (401, 403) or answer.code in _ACCESS_CODES


def _access_denied(uri: str, reason: str) -> InputError:
    if not uri.startswith(("s3://", "s3a://")):
        return InputError(f"permission denied on {uri}; check its owner and mode")
    return InputError(
        f"access denied to {uri} with the credentials in the environment "
        f"(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the instance role); check them ({reason})"
    )


def _is_refusal(answer: _Answer) -> bool:
    return 300 <= answer.status < 500 and answer.status not in _TRANSIENT_STATUS and answer.code not in _TRANSIENT_4XX


def _answer(error: BaseException) -> _Answer:
    """From botocore's error, here or as the cause of s3fs's, or from pyarrow's text."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, boto.ClientError):
            response = candidate.response
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return _Answer(str(response.get("Error", {}).get("Code", "")), int(status))
    found = _ARROW_ERROR.search(str(error))
    return _Answer(found["code"], int(found["status"] or 0)) if found else _Answer()


def _one_line(error: Exception) -> str:
    """The foreign text, short, on one line, and without the values of credentials or the query of a URL."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"\?[^\s\"']*", "", text)
    for name in _SECRET_VARIABLES:
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return text if len(text) <= 200 else f"{text[:200]}…"
