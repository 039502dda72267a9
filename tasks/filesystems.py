"""Which client serves a URI: local folders, s3://, and whatever else fsspec knows."""

import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from pyarrow import fs as arrow_fs

from finf_core.errors import InputError
from tasks.s3_clients import arrow_filesystem, s3fs_filesystem

S3_SCHEMES = ("s3", "s3a")


def locate(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path inside it; a local path comes back absolute.

    Raises:
        InputError: the URI is empty, carries a password, holds what no name can hold, or is of a kind that no
            installed client knows.
    """
    refuse_credentials(uri)
    refuse_unusable(uri)
    if is_s3(uri):
        filesystem = s3fs_filesystem()
        return filesystem, filesystem._strip_protocol(uri)
    if "://" not in uri:  # fsspec itself would read a file name such as "http::x" as a chain of clients
        return LocalFileSystem(skip_instance_cache=True), _absolute(make_path_posix(uri))
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        raise InputError(f"no storage client for {uri} ({error}); use a local path or s3://bucket/key") from error
    return filesystem, _absolute(path) if is_local(filesystem) else path


def _absolute(path: str) -> str:
    """fsspec leaves a path that begins with `~` as it is where no user has that name."""
    return os.path.join(os.getcwd(), path).rstrip("/") or "/"


def locate_for_arrow(uri: str) -> tuple[Any, str]:
    """The same for pyarrow, which reads ranges by itself and without Python's lock where it knows the storage."""
    filesystem, path = locate(uri)
    if is_s3(uri):
        return arrow_filesystem(), path
    if is_local(filesystem):
        return arrow_fs.LocalFileSystem(), path
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path


def is_s3(uri: str) -> bool:
    return uri.partition("://")[0] in S3_SCHEMES


def is_local(filesystem: Any) -> bool:
    return isinstance(filesystem, LocalFileSystem)


def refuse_unusable(uri: str) -> None:
    """Raises InputError: a null byte, bytes that are no UTF-8, or a key that s3fs would take apart."""
    if "\0" in uri or any("\ud800" <= character <= "\udfff" for character in uri):
        raise InputError(f"{uri!r}: a name must be UTF-8 without null bytes; rename it")
    if is_s3(uri) and "?versionId=" in uri:
        raise InputError(f"{uri}: a key with '?versionId=' in it would be read as another object; rename it")


def refuse_credentials(uri: str) -> None:
    """Raises InputError: a URI that is empty or carries a password; the password is not repeated."""
    if not uri:
        raise InputError("an empty storage URI; give a local path or s3://bucket/key")
    if carries_credentials(uri):
        raise InputError("a storage URI must not carry a user name or a password; use the environment or a profile")


def carries_credentials(uri: str) -> bool:
    return "@" in uri.partition("://")[2].partition("/")[0]
