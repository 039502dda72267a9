"""Parquet from strangers: read in bounded memory, whatever its footer says.

A few hundred bytes of Parquet can decode to terabytes: pages of one repeated byte, a long string in the dictionary that
every row names, runs of a billion equal numbers. So the bytes of the needed columns are fetched, what they decode to is
counted from the headers of their pages (`tasks.page_headers`), and only then are they decoded. Where the headers leave
it open (how long are the strings that are named?) indices and dictionary are read first, which is cheap, and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finf_core.errors import InputError
from tasks.dictionary_page import longest_string
from tasks.fetched_file import FetchedFile, Range
from tasks.page_headers import (
    DATA,
    DATA_V2,
    DELTA_BYTE_ARRAY,
    DICTIONARY,
    PLAIN_DICTIONARY,
    RLE_DICTIONARY,
    BadPageError,
    Page,
    read_pages,
)

MAX_GROUP_BYTES = 2 * 2**30  # decoded, of the needed columns of one row group
MAX_FOOTER_BYTES = 16 * 2**20  # in memory it takes some 20 times as much; one made to, 216 times
TAIL_BYTES = 64 * 2**10  # fetched at first: most footers are in it
NUMBER_BYTES, STRING_BYTES = 12, 8  # a number as 64 bits with its levels; a string's offset and levels
WIDE_NUMBERS = ("INT96", "FIXED_LEN_BYTE_ARRAY")
SPLIT = "write it with smaller row groups (row_group_size), or take it out of the corpus"


@dataclass(frozen=True)
class GuardedParquet:
    """An open file with its footer; to be closed, or used in a `with`."""

    source: Any  # pyarrow's NativeFile
    metadata: pq.FileMetaData

    @property
    def schema_arrow(self) -> pa.Schema:
        return self.metadata.schema.to_arrow_schema()

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
        metadata = pq.read_metadata(pa.BufferReader(_footer(source, uri)))
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
            raise InputError(f"{uri}: not a readable Parquet file (its footer's counts of rows contradict each other)")
        return GuardedParquet(source, metadata)
    except BaseException:
        source.close()
        raise


def read_group(parquet: GuardedParquet, group: int, columns: Sequence[str], uri: str) -> pa.Table:
    """Some columns of one row group.

    Raises:
        InputError: they decode to more than `MAX_GROUP_BYTES`, or not to what the footer says; names the column.
        ArrowInvalid, OSError: they cannot be decoded.
    """
    where = f"{uri}: row group {group}"
    leaves = list(_leaves(parquet.metadata, group, columns))
    for leaf in leaves:
        _check_place(leaf, parquet.source.size(), where)
    _check_size({leaf.name: leaf.packed.num_bytes for leaf in leaves}, where)
    fetched = FetchedFile(parquet.source, list(dict.fromkeys(leaf.packed for leaf in leaves)))
    sizes = [_decoded(leaf, fetched.chunk(leaf.packed), where) for leaf in leaves]
    _check_size({leaf.name: size.least_bytes for leaf, size in zip(leaves, sizes, strict=True)}, where)
    for leaf, size in zip(leaves, sizes, strict=True):
        _check_rows(leaf, size, parquet.metadata.row_group(group).num_rows, where)
    if sum(size.most_bytes for size in sizes) > MAX_GROUP_BYTES:
        _count_strings(fetched, parquet.metadata, group, leaves, sizes, where)
    table = _opened(fetched, parquet.metadata).read_row_group(group, columns=list(columns))
    if len(table) != (said := parquet.metadata.row_group(group).num_rows):
        raise _wrong_rows(f"{len(table):,} rows", said, where)
    return table


@dataclass(frozen=True)
class _Leaf:
    name: str
    packed: Range
    num_values: int
    codec: str
    kind: str  # the physical type
    is_repeated: bool  # lists: more values than rows
    width: int  # bytes of a number


@dataclass(frozen=True)
class _Size:
    """What a column chunk decodes to, as far as its headers tell."""

    num_values: int
    least_bytes: int
    most_bytes: int
    longest_bytes: int  # no string is longer
    is_delta: bool = False  # strings that share beginnings


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


def _leaves(metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> Iterator[_Leaf]:
    described = metadata.row_group(group)
    for index in range(metadata.num_columns):
        schema = metadata.schema.column(index)
        if not any(schema.path == name or schema.path.startswith(f"{name}.") for name in columns):
            continue
        chunk = described.column(index)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset and chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        width = max(NUMBER_BYTES, schema.length if schema.physical_type in WIDE_NUMBERS else 0)
        packed = Range(start, chunk.total_compressed_size)
        kind, is_repeated = schema.physical_type, schema.max_repetition_level > 0
        yield _Leaf(schema.path, packed, chunk.num_values, chunk.compression, kind, is_repeated, width)


def _check_place(leaf: _Leaf, size: int, where: str) -> None:
    start, num_bytes = leaf.packed
    if start < 0 or num_bytes < 0 or leaf.num_values < 0 or start + num_bytes > size:
        raise InputError(f"{where}: column {leaf.name!r} lies outside the file, by its footer; write the shard again")


def _check_rows(leaf: _Leaf, size: _Size, num_rows: int, where: str) -> None:
    """pyarrow reserves memory for the rows that the footer promises."""
    if size.num_values < num_rows or (size.num_values > num_rows and not leaf.is_repeated):
        raise _wrong_rows(f"{size.num_values:,} values in column {leaf.name!r}", num_rows, where)


def _wrong_rows(found: str, said: int, where: str) -> InputError:
    return InputError(f"{where}: holds {found}, and its footer says {said:,} rows; write the shard again")


def _check_size(bytes_of: dict[str, int], where: str) -> None:
    if (total := sum(bytes_of.values())) > MAX_GROUP_BYTES:
        largest = max(bytes_of, key=lambda name: bytes_of[name])
        raise InputError(
            f"{where}: column {largest!r} decodes to more than finf holds of one row group ({total:,} bytes with all "
            f"that is read beside it, of {MAX_GROUP_BYTES:,}); {SPLIT}"
        )


def _decoded(leaf: _Leaf, chunk: memoryview, where: str) -> _Size:
    try:
        pages = list(read_pages(chunk, leaf.num_values))
    except BadPageError as error:
        raise InputError(f"{where}: column {leaf.name!r} is damaged ({error}); write the shard again") from error
    unpacked = sum(page.unpacked_bytes for page in pages)
    num_values = sum(page.num_values for page in pages if page.kind in (DATA, DATA_V2))
    if leaf.kind != "BYTE_ARRAY":
        numbers = unpacked + num_values * leaf.width
        return _Size(num_values, numbers, numbers, leaf.width)
    dictionary = max((_longest(page, leaf, chunk) for page in pages if page.kind == DICTIONARY), default=0)
    return _strings(pages, unpacked + num_values * STRING_BYTES, dictionary)


def _longest(page: Page, leaf: _Leaf, chunk: memoryview) -> int:
    """Bytes of a dictionary's longest string, or more."""
    if page.unpacked_bytes * leaf.num_values <= MAX_GROUP_BYTES // 16:
        return page.unpacked_bytes
    content = chunk[page.start : page.start + page.packed_bytes]
    found = longest_string(content, page.unpacked_bytes, page.num_values, leaf.codec)
    return page.unpacked_bytes if found is None else found


def _strings(pages: Sequence[Page], least: int, dictionary: int) -> _Size:
    """
    Args:
        least: bytes of the pages, unpacked, and of what stands beside the strings.
        dictionary: bytes of its longest string.
    """
    data = [page for page in pages if page.kind in (DATA, DATA_V2)]
    named = sum(page.num_values for page in data if page.encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY))
    delta = [page for page in data if page.encoding == DELTA_BYTE_ARRAY]
    longest = max((page.unpacked_bytes for page in pages), default=0)
    most = least + named * dictionary + sum(page.num_values * page.unpacked_bytes for page in delta)
    return _Size(sum(page.num_values for page in data), least, most, longest, bool(delta))


def _count_strings(
    fetched: FetchedFile,
    metadata: pq.FileMetaData,
    group: int,
    leaves: Sequence[_Leaf],
    sizes: Sequence[_Size],
    where: str,
) -> None:
    """Read the columns whose headers leave their size open, strings as indices into dictionaries, and count."""
    bytes_of = {leaf.name: size.least_bytes for leaf, size in zip(leaves, sizes, strict=True)}
    for leaf, size in zip(leaves, sizes, strict=True):
        if size.most_bytes == size.least_bytes:
            continue
        bytes_of[leaf.name] = size.num_values * STRING_BYTES  # each string is counted where it is named, not as a page
        batch_rows = max(1, MAX_GROUP_BYTES // max(1, size.longest_bytes)) if size.is_delta else 2**31 - 1
        reader = _opened(fetched, metadata, [] if size.is_delta else [leaf.name])
        for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=[leaf.name], use_threads=False):
            bytes_of[leaf.name] += sum(map(_string_bytes, batch.columns))
            _check_size(bytes_of, where)


def _string_bytes(array: pa.Array) -> int:
    """Of all strings in an array, as if none were named."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths[indices].sum()) if len(indices) else 0
    if pa.types.is_struct(kind):
        return sum(_string_bytes(array.field(index)) for index in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return _string_bytes(array.values) if not pa.types.is_map(kind) else array.nbytes
    return int(array.nbytes)


def _opened(fetched: FetchedFile, metadata: pq.FileMetaData, named: Sequence[str] = ()) -> pq.ParquetFile:
    fetched.seek(0)
    return pq.ParquetFile(fetched, metadata=metadata, pre_buffer=False, read_dictionary=list(named))
