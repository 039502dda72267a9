"""A Parquet file from strangers, opened by its footer: looked at before it is parsed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.errors import InputError

MAX_FOOTER_BYTES = 16 * 2**20  # in memory it takes some 20 times as much; one made to, 216 times
TAIL_BYTES = 64 * 2**10  # fetched at first: most footers are in it


@dataclass(frozen=True)
class GuardedParquet:
    """An open file with its footer; to be closed, or used in a `with`."""

    source: Any  # pyarrow's NativeFile
    metadata: pq.FileMetaData
    schema_arrow: pa.Schema

    def close(self) -> None:
        self.source.close()

    def __enter__(self) -> "GuardedParquet":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_guarded(filesystem: Any, path: str, uri: str) -> GuardedParquet:
    """Open a file by its footer.

    Raises:
        InputError: the footer is longer than the file or than `MAX_FOOTER_BYTES`, or counts rows wrongly.
        ArrowInvalid, OSError: it cannot be read.
    """
    source = filesystem.open_input_file(path)
    try:
        with parsing(uri):
            return _parsed(source, uri)
    except BaseException:
        source.close()
        raise


@contextmanager
def parsing(uri: str) -> Iterator[None]:
    """What Python itself raises over a file's content (names that are not UTF-8, numbers that are too large)."""
    try:
        yield
    except pa.ArrowException:
        raise
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{uri}: not a readable Parquet file ({reason})") from error


def _parsed(source: Any, uri: str) -> GuardedParquet:
    metadata = pq.read_metadata(pa.BufferReader(_footer(source, uri)))
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise InputError(f"{uri}: not a readable Parquet file (its footer's counts of rows contradict each other)")
    return GuardedParquet(source, metadata, metadata.schema.to_arrow_schema())


def _footer(source: Any, uri: str) -> bytes:
    """The footer with its length and the magic number, as pyarrow finds them at the end of a file."""
    size = source.size()
    tail = source.read_at(min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
    if len(tail) < 8 or tail[-4:] != b"PAR1":
        return bytes(tail)
    num_bytes = int.from_bytes(tail[-8:-4], "little")
    if num_bytes + 8 > size:
        raise InputError(f"{uri}: not a readable Parquet file (a footer of {num_bytes:,} bytes in a file of {size:,})")
    if num_bytes > MAX_FOOTER_BYTES:
        raise InputError(
            f"{uri}: a footer of {num_bytes:,} bytes is more than finf reads ({MAX_FOOTER_BYTES:,}); "
            "write it with fewer columns or row groups"
        )
    if num_bytes + 8 > len(tail):
        tail = source.read_at(num_bytes + 8, size - num_bytes - 8)
    return bytes(b"PAR1" + tail)
