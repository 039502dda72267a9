"""Local files and folders that appear whole or not at all: written beside their place, then renamed into it."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".partial"
SHOWN_CHARACTERS = 40  # of a name: with the rest it must stay below the 255 bytes that a file name may have


def is_partial(name: str) -> bool:
    """Whether a name is that of a file or folder still being written, or left over by a killed writer."""
    return name.startswith(".") and name.endswith(PARTIAL_SUFFIX)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of which nobody ever sees a part, not even after a loss of power."""
    with _written_beside(path, data) as partial:
        partial.replace(path)


def create_whole(path: Path, data: bytes) -> None:
    """The same, for the first of several writers only. Raises FileExistsError to all others."""
    with _written_beside(path, data) as partial:
        os.link(partial, path)


@contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` if the block ends well. Where another writer was first, its copy stays."""
    partial = _partial_path(path)
    partial.mkdir(parents=True)
    try:
        yield partial
        _rename_unless_filled(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _rename_unless_filled(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError:
        if not is_filled(path):
            raise


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name[:SHOWN_CHARACTERS]}.{secrets.token_hex(8)}{PARTIAL_SUFFIX}")


def _sync_folder(folder: Path) -> None:
    """The rename itself must reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
