"""Parquet from strangers: read in bounded memory, whatever its footer says.

A few hundred bytes of Parquet can decode to terabytes: pages of one repeated byte, a long string in the dictionary that
every row names, runs of a billion equal numbers. So the bytes of the needed columns are fetched, what they decode to is
counted from the headers of their pages (`tasks.page_headers`), and only then are they decoded. Where the headers leave
it open (how long are the strings that are named?) indices and dictionary are read first, which is cheap, and counted.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finf_core.errors import InputError
from tasks.dictionary_page import longest_string
from tasks.fetched_file import FetchedFile, NotReadError, Range, UnreadFile
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
PROBE_BYTES = 4096
LEAST_BATCH_ROWS = 50  # smaller batches cost more than they save
NAMES = (PLAIN_DICTIONARY, RLE_DICTIONARY)
SPLIT = "write it with smaller row groups (row_group_size), or take it out of the corpus"


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


@dataclass(frozen=True)
class _Leaf:
    name: str
    packed: Range
    num_values: int
    index: int  # of the file's columns of values
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
    num_named: int = 0  # strings that stand in the dictionary
    dictionary: Page | None = None


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


def read_group(parquet: GuardedParquet, group: int, columns: Sequence[str], uri: str) -> pa.Table:
    """Some columns of one row group.

    Raises:
        InputError: they decode to more than `MAX_GROUP_BYTES`, or not to what the footer says; names the column.
        ArrowInvalid, OSError: they cannot be decoded.
    """
    with parsing(uri):
        return _read_group(parquet, group, columns, f"{uri}: row group {group}")


def _read_group(parquet: GuardedParquet, group: int, columns: Sequence[str], where: str) -> pa.Table:
    _check_chunks(parquet, group, columns)
    leaves = list(_leaves(parquet.metadata, group, columns))
    for leaf in leaves:
        _check_place(leaf, parquet.source.size(), where)
    _check_size({leaf.name: leaf.packed.num_bytes for leaf in leaves}, where)
    fetched = FetchedFile(parquet.source, list(dict.fromkeys(leaf.packed for leaf in leaves)))
    sizes = [_decoded(leaf, fetched.chunk(leaf.packed), where) for leaf in leaves]
    _check_size({leaf.name: size.least_bytes for leaf, size in zip(leaves, sizes, strict=True)}, where)
    for leaf, size in zip(leaves, sizes, strict=True):
        _check_rows(leaf, size, parquet.metadata.row_group(group).num_rows, where)
    batch_rows = _batch_rows(leaves, sizes)
    if batch_rows is not None:
        table = _read_in_batches(_opened(fetched, parquet.metadata), group, columns, batch_rows, where)
    else:
        table = _read_at_once(parquet, fetched, group, columns, leaves, sizes, where)
    if len(table) != (said := parquet.metadata.row_group(group).num_rows):
        raise _wrong_rows(f"{len(table):,} rows", said, where)
    return table


def _read_at_once(
    parquet: GuardedParquet,
    fetched: FetchedFile,
    group: int,
    columns: Sequence[str],
    leaves: Sequence[_Leaf],
    sizes: list[_Size],
    where: str,
) -> pa.Table:
    """A row group after its strings were counted, where the headers leave it open how many bytes they are."""
    for place in sorted(range(len(sizes)), key=lambda place: sizes[place].least_bytes - sizes[place].most_bytes):
        if sum(size.most_bytes for size in sizes) > MAX_GROUP_BYTES:
            sizes[place] = _narrowed(parquet, group, leaves[place], sizes[place], fetched.chunk(leaves[place].packed))
    if sum(size.most_bytes for size in sizes) > MAX_GROUP_BYTES:
        _count_strings(fetched, parquet.metadata, group, leaves, sizes, where)
    return _opened(fetched, parquet.metadata).read_row_group(group, columns=list(columns))


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


def _check_chunks(parquet: GuardedParquet, group: int, columns: Sequence[str]) -> None:
    """Have pyarrow's reader look at the metadata of the chunks, up to where it would read them.

    What it refuses there is an error; the same asked through `metadata.row_group(...).column(...)` ends the process
    (pyarrow 26: an exception of C++ that nobody catches).
    """
    reader = pq.ParquetFile(UnreadFile(parquet.source), metadata=parquet.metadata, pre_buffer=True)
    with suppress(NotReadError):
        reader.read_row_group(group, columns=list(columns), use_threads=False)


def _codec(parquet: GuardedParquet, group: int, leaf: _Leaf) -> str:
    """As `_check_chunks`: a buffered reader looks at the codec before it reads; for the rows it reserves memory."""
    unread, metadata = UnreadFile(parquet.source), parquet.metadata
    reader = pq.ParquetFile(unread, metadata=metadata, pre_buffer=False, buffer_size=PROBE_BYTES)
    with suppress(NotReadError):
        reader.read_row_group(group, columns=[leaf.name], use_threads=False)
    return str(metadata.row_group(group).column(leaf.index).compression)


def _batch_rows(leaves: Sequence[_Leaf], sizes: Sequence[_Size]) -> int | None:
    """How many rows decode to `MAX_GROUP_BYTES` at most, where all may decode to more; None: count in other ways."""
    if sum(size.most_bytes for size in sizes) <= MAX_GROUP_BYTES or any(leaf.is_repeated for leaf in leaves):
        return None
    row_bytes = sum(size.longest_bytes for size in sizes if size.most_bytes > size.least_bytes)
    rows = MAX_GROUP_BYTES // row_bytes
    return rows if rows >= LEAST_BATCH_ROWS else None


def _read_in_batches(
    reader: pq.ParquetFile, group: int, columns: Sequence[str], batch_rows: int, where: str
) -> pa.Table:
    """A row group without lists, and no more of it than `MAX_GROUP_BYTES` and one batch."""
    bytes_of: dict[str, int] = defaultdict(int)
    batches = []
    for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=list(columns)):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            bytes_of[name] += _string_bytes(column)
        _check_size(bytes_of, where)
        batches.append(batch)
    return pa.Table.from_batches(batches)


def _needed(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Number and path of each column of values that these columns are made of."""
    for index in range(metadata.num_columns):
        path = metadata.schema.column(index).path
        if any(path == name or path.startswith(f"{name}.") for name in columns):
            yield index, path


def _leaves(metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> Iterator[_Leaf]:
    described = metadata.row_group(group)
    for index, path in _needed(metadata, columns):
        schema, chunk = metadata.schema.column(index), described.column(index)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset and chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        width = max(NUMBER_BYTES, schema.length if schema.physical_type in WIDE_NUMBERS else 0)
        packed = Range(start, chunk.total_compressed_size)
        kind, is_repeated = schema.physical_type, schema.max_repetition_level > 0
        yield _Leaf(path, packed, chunk.num_values, index, kind, is_repeated, width)


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
    return _strings(pages, unpacked + num_values * STRING_BYTES)


def _strings(pages: Sequence[Page], least: int) -> _Size:
    """
    Args:
        least: bytes of the pages, unpacked, and of what stands beside the strings.
    """
    data = [page for page in pages if page.kind in (DATA, DATA_V2)]
    delta = [page for page in data if page.encoding == DELTA_BYTE_ARRAY]
    dictionary = next((page for page in pages if page.kind == DICTIONARY), None)
    named = 0 if dictionary is None else sum(page.num_values for page in data if page.encoding in NAMES)
    most = least + sum(page.num_values * page.unpacked_bytes for page in delta)
    most += 0 if dictionary is None else named * dictionary.unpacked_bytes
    longest = max((page.unpacked_bytes for page in pages), default=0)
    return _Size(sum(page.num_values for page in data), least, most, longest, bool(delta), named, dictionary)


def _narrowed(parquet: GuardedParquet, group: int, leaf: _Leaf, size: _Size, chunk: memoryview) -> _Size:
    """No more for each string that is named than the longest of the dictionary, where that is quickly found."""
    page = size.dictionary
    if page is None or page.unpacked_bytes > MAX_GROUP_BYTES // 16:
        return size
    content = chunk[page.start : page.start + page.packed_bytes]
    longest = longest_string(content, page.unpacked_bytes, page.num_values, _codec(parquet, group, leaf))
    if longest is None:
        return size
    return replace(size, most_bytes=size.most_bytes - size.num_named * (page.unpacked_bytes - longest))


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
        reader = _opened(fetched, metadata, [] if size.is_delta else [leaf.name])
        bytes_of[leaf.name] = size.num_values * STRING_BYTES  # each string is counted where it is named, not as a page
        batch_rows = max(1, MAX_GROUP_BYTES // max(1, size.longest_bytes)) if size.is_delta else 2**31 - 1
        for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=[leaf.name], use_threads=False):
            bytes_of[leaf.name] += sum(map(_string_bytes, batch.columns))
            _check_size(bytes_of, where)


def _inner(array: pa.Array) -> list[pa.Array]:
    """The arrays that an array of structs or lists is made of."""
    kind = array.type
    if pa.types.is_struct(kind):
        return [array.field(index) for index in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [array.keys, array.items]
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return [array.values] if is_list else []


def _string_bytes(array: pa.Array) -> int:
    """Of all strings in an array, as if none were named."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        indices = array.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths[indices].sum()) if len(indices) else 0
    inner = _inner(array)
    return sum(map(_string_bytes, inner)) if inner else int(array.nbytes)


def _opened(fetched: FetchedFile, metadata: pq.FileMetaData, named: Sequence[str] = ()) -> pq.ParquetFile:
    """
    Args:
        named: columns to read as indices into dictionaries; extension types would not be.
    """
    fetched.seek(0)
    options = {"read_dictionary": list(named), "arrow_extensions_enabled": not named}
    return pq.ParquetFile(fetched, metadata=metadata, pre_buffer=False, **options)
