"""The one wrapper over storage, local or remote.

An object appears whole or not at all, a listing is always fresh, and every foreign error leaves as one of ours
(`tasks.storage_errors`). Parquet is read through pyarrow's own filesystems: ranges of columns, not whole objects.
Every function raises InputError for what is missing, not allowed or wrong, StorageError for what may work later (at
once, or when the patience of `tasks.patience` is used up).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.columns import describe_columns, find_column
from finf_core.errors import InputError
from tasks.filesystems import is_local, is_s3, locate, locate_for_arrow, refuse_unusable
from tasks.guarded_parquet import GuardedParquet, open_guarded
from tasks.guarded_read import read_group
from tasks.partial_files import create_whole, is_filled, is_partial, whole_folder, write_whole
from tasks.patience import retried
from tasks.s3_clients import put_deadline_seconds
from tasks.storage_errors import is_there_already, parquet_errors, storage_errors

MAX_PUT_BYTES = 5 * 2**30  # S3's limit for one put
GLOB_CHARACTERS = frozenset("*?[")
NOT_A_NAME = {"", ".", ".."}


class StoredObject(NamedTuple):
    uri: str  # s3://bucket/key, or an absolute local path
    size_bytes: int
    etag: str  # another one when the content was replaced; of a local file its mtime (ns) and size


def join(uri: str, *parts: str) -> str:
    """Append parts to a URI with `/`. Raises InputError for a part that is empty, absolute or holds '.' or '..'."""
    for part in parts:
        if not NOT_A_NAME.isdisjoint(part.split("/")):
            raise InputError(f"{part!r} cannot be joined to {uri!r}: it must be relative, without '..' or empty names")
    if not uri:
        raise InputError(f"{'/'.join(parts)!r} cannot be joined to an empty URI")
    return "/".join([uri.rstrip("/"), *parts])


@retried
def list_objects(pattern: str) -> list[StoredObject]:
    """The objects that a glob matches, or every *.parquet below a folder, or one object; sorted by URI."""
    filesystem, path = locate(pattern)
    with storage_errors(pattern):
        infos = _glob(filesystem, path) if not GLOB_CHARACTERS.isdisjoint(path) else _find_parquet(filesystem, path)
        infos = map(_followed, infos) if is_local(filesystem) else infos
        objects = [_stored_object(filesystem, info) for info in infos if _is_finished(info)]
    if not objects:
        raise InputError(f"nothing matches {pattern}: give a glob, a folder with *.parquet below it, or one object")
    return sorted(objects)


@retried
def stat_object(uri: str) -> StoredObject:
    """The object of just this name, whatever characters it holds: `list_objects` would read some as a glob."""
    filesystem, path = locate(uri)
    with storage_errors(uri):
        return _stored_object(filesystem, filesystem.info(path))


@retried
def list_names(folder_uri: str) -> set[str]:
    """Names of the finished objects directly in a folder; the empty set if there is no such folder."""
    filesystem, path = locate(folder_uri)
    with storage_errors(folder_uri):
        try:
            finished = (info for info in _entries(filesystem, path) if _is_finished(info))
            entries = (PurePosixPath(info["name"]) for info in finished)
            return {entry.name for entry in entries if entry.parent == PurePosixPath(path)}
        except (FileNotFoundError, NotADirectoryError):
            return set()


@retried
def exists(uri: str) -> bool:
    """Whether there is an object or a folder of this name."""
    filesystem, path = locate(uri)
    with storage_errors(uri):
        try:
            filesystem.info(path)
        except FileNotFoundError:
            return False
        return True


@retried
def read_bytes(uri: str) -> bytes:
    """A whole object."""
    filesystem, path = locate(uri)
    with storage_errors(uri):
        return bytes(filesystem.cat_file(path))


@retried
def publish_bytes(uri: str, data: bytes) -> None:
    """Store an object whole or not at all: one put from memory, or a file that is renamed when it is on disk."""
    filesystem, path = locate(uri)
    with storage_errors(uri):
        if is_local(filesystem):
            write_whole(Path(path), data)
        elif is_s3(uri):
            filesystem.pipe_file(path, data, chunksize=MAX_PUT_BYTES, timeout=put_deadline_seconds(len(data)))
        else:
            filesystem.pipe_file(path, data)


def publish_table(uri: str, table: pa.Table) -> None:
    """Store a table as Parquet (zstd). It is encoded in memory first: a broken-off writer block would leave a
    shorter file that is valid."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    publish_bytes(uri, buffer.getvalue().to_pybytes())


@retried
def publish_first(uri: str, data: bytes) -> bool:
    """Store an object unless there is one: of several writers, one is first. Returns whether it was this call.

    (A first writer whose answer got lost on its way, and who asks again, hears that another one was first.)
    """
    filesystem, path = locate(uri)
    with storage_errors(uri):
        try:
            if is_local(filesystem):
                create_whole(Path(path), data)
            else:
                filesystem.pipe_file(path, data, mode="create")
        except OSError as error:
            if is_there_already(error):
                return False
            raise
    return True


@retried
def remove(uri: str) -> None:
    """Remove an object; one that is not there is removed already."""
    filesystem, path = locate(uri)
    with storage_errors(uri), suppress(FileNotFoundError):
        filesystem.rm_file(path)


@retried
def open_parquet(uri: str) -> GuardedParquet:
    """Open a Parquet file by its footer, for `read_row_group`. Close it, or use it in a `with`."""
    filesystem, path = locate_for_arrow(uri)
    with parquet_errors(uri):
        return open_guarded(filesystem, path, uri)


@retried
def read_row_group(parquet: GuardedParquet, group: int, columns: Sequence[str], uri: str) -> pa.Table:
    """Some columns (or fields of structs) of one row group of an open file; over the network only they are fetched.
    What would decode to more than memory holds is an InputError before it does (`tasks.guarded_read`)."""
    with parquet_errors(uri):
        return read_group(parquet, group, _known_columns(parquet.schema_arrow, columns, uri), uri)


@retried
def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole Parquet file, or some of its columns."""
    filesystem, path = locate_for_arrow(uri)
    with parquet_errors(uri), pq.ParquetFile(path, filesystem=filesystem, pre_buffer=True) as parquet:
        return parquet.read(columns=None if columns is None else _known_columns(parquet.schema_arrow, columns, uri))


@retried
def download_folder(uri: str, local_folder: Path) -> None:
    """Copy every object below a folder to a local folder, which appears whole or not at all.

    A local folder that is there and not empty counts as complete and is left alone: name it after what it holds
    (a digest), and several processes of one machine may ask for it at once.
    """
    if is_filled(local_folder):
        return
    filesystem, path = locate(uri)
    with storage_errors(uri):
        sources = [name for name, info in filesystem.find(path, detail=True).items() if _is_finished(info)]
        if not sources:
            raise InputError(f"nothing to download: {uri} is missing or empty")
        with whole_folder(local_folder) as partial:
            targets = [partial / _relative_name(source, path, uri) for source in sources]
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get(sources, [str(target) for target in targets])


def _known_columns(schema: pa.Schema, columns: Sequence[str], uri: str) -> list[str]:
    """pyarrow itself would leave out a column that is not there."""
    if missing := [name for name in columns if find_column(schema, name) is None]:
        raise InputError(f"{uri} has no column {missing}; it has {describe_columns(schema)}")
    return list(columns)


def _glob(filesystem: Any, path: str) -> list[dict[str, Any]]:
    return list(filesystem.glob(path, detail=True).values())


def _find_parquet(filesystem: Any, path: str) -> Iterator[dict[str, Any]]:
    """One flat listing serves both: below a folder, or the object of just this name."""
    walked = is_local(filesystem) and os.path.isdir(path)
    found = _walk(filesystem, path) if walked else filesystem.find(path, detail=True).values()
    return (info for info in found if info["name"] == path or info["name"].endswith(".parquet"))


def _entries(filesystem: Any, folder: str) -> Iterator[dict[str, Any]]:
    """What `ls` gives, one at a time where that can be had."""
    if not is_local(filesystem):
        yield from filesystem.ls(folder, detail=True)
        return
    with os.scandir(folder) as entries:
        yield from map(filesystem.info, entries)


def _walk(filesystem: Any, folder: str) -> Iterator[dict[str, Any]]:
    """What `find` gives, one at a time: all those of 100,000 files at once take as many kilobytes.

    Links to folders are not followed, so that a circle of them has an end, nor are they left out without a word.
    """
    for info in _entries(filesystem, folder):
        if info["type"] == "directory":
            yield from _walk(filesystem, info["name"])
        elif info["islink"] and os.path.isdir(info["name"]):
            raise InputError(f"{info['name']} is a link to a folder, which is not followed; name that folder itself")
        else:
            yield info


def _followed(info: dict[str, Any]) -> dict[str, Any]:
    """A link to a file counts as that file."""
    name = info["name"]
    if not info["islink"] or is_partial(PurePosixPath(name).name):
        return info
    if not os.path.exists(name):
        raise InputError(f"{name} is a link that leads nowhere; mend or remove it")
    return info | {"type": "file" if os.path.isfile(name) else "other"}


def _is_finished(info: dict[str, Any]) -> bool:
    return info["type"] == "file" and not is_partial(PurePosixPath(info["name"]).name)


def _stored_object(filesystem: Any, info: dict[str, Any]) -> StoredObject:
    refuse_unusable(info["name"])
    if is_local(filesystem):
        status = os.stat(info["name"])
        return StoredObject(info["name"], status.st_size, f"{status.st_mtime_ns}-{status.st_size}")
    etag = info.get("ETag") or filesystem.ukey(info["name"])
    return StoredObject(filesystem.unstrip_protocol(info["name"]), info["size"], str(etag).strip('"'))


def _relative_name(name: str, folder: str, uri: str) -> str:
    """Where an object goes below the local folder; a key with '..' in it would climb out of it."""
    relative = name.removeprefix(folder).lstrip("/") or PurePosixPath(folder).name
    if not NOT_A_NAME.isdisjoint(relative.split("/")):
        raise InputError(f"{uri} holds an object named {relative!r}, which is no file name here; rename it")
    return relative
