"""Parquet from strangers: read in bounded memory, whatever its footer says.

A few hundred bytes of Parquet can decode to terabytes: pages of one repeated byte, a long string in the dictionary that
every row names, runs of a billion equal numbers. So the bytes of the needed columns are fetched, what they decode to is
counted from the headers of their pages (`tasks.page_headers`), and only then are they decoded. Where the headers leave
it open (how long are the strings that are named?) indices and dictionary are read first, which is cheap, and counted.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finf_core.errors import InputError
from tasks.chunk_sizes import STRING_BYTES, ChunkSize, Leaf, decoded_size, leaves_of
from tasks.dictionary_page import longest_string
from tasks.fetched_file import FetchedFile, NotReadError, UnreadFile
from tasks.guarded_parquet import GuardedParquet, parsing

MAX_GROUP_BYTES = 2 * 2**30  # decoded, of the needed columns of one row group
PROBE_BYTES = 4096
LEAST_BATCH_ROWS = 50  # smaller batches cost more than they save
SPLIT = "write it with smaller row groups (row_group_size), or take it out of the corpus"


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
    leaves = list(leaves_of(parquet.metadata, group, columns))
    for leaf in leaves:
        _check_place(leaf, parquet.source.size(), where)
    _check_size({leaf.name: leaf.packed.num_bytes for leaf in leaves}, where)
    fetched = FetchedFile(parquet.source, list(dict.fromkeys(leaf.packed for leaf in leaves)))
    sizes = [decoded_size(leaf, fetched.chunk(leaf.packed), where) for leaf in leaves]
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
    leaves: Sequence[Leaf],
    sizes: list[ChunkSize],
    where: str,
) -> pa.Table:
    """A row group after its strings were counted, where the headers leave it open how many bytes they are."""
    for place in sorted(range(len(sizes)), key=lambda place: sizes[place].least_bytes - sizes[place].most_bytes):
        if sum(size.most_bytes for size in sizes) > MAX_GROUP_BYTES:
            sizes[place] = _narrowed(parquet, group, leaves[place], sizes[place], fetched.chunk(leaves[place].packed))
    if sum(size.most_bytes for size in sizes) > MAX_GROUP_BYTES:
        _count_strings(fetched, parquet.metadata, group, leaves, sizes, where)
    return _opened(fetched, parquet.metadata).read_row_group(group, columns=list(columns), use_threads=False)


def _check_chunks(parquet: GuardedParquet, group: int, columns: Sequence[str]) -> None:
    """Have pyarrow's reader look at the metadata of the chunks, up to where it would read them.

    What it refuses there is an error; the same asked through `metadata.row_group(...).column(...)` ends the process
    (pyarrow 26: an exception of C++ that nobody catches); so does, now and then, the reader that buffers nothing.
    """
    reader = pq.ParquetFile(UnreadFile(parquet.source), metadata=parquet.metadata, pre_buffer=True)
    with suppress(NotReadError):
        reader.read_row_group(group, columns=list(columns), use_threads=False)


def _codec(parquet: GuardedParquet, group: int, leaf: Leaf) -> str:
    """As `_check_chunks`: a buffered reader looks at the codec before it reads; for the rows it reserves memory."""
    unread, metadata = UnreadFile(parquet.source), parquet.metadata
    reader = pq.ParquetFile(unread, metadata=metadata, pre_buffer=False, buffer_size=PROBE_BYTES)
    with suppress(NotReadError):
        reader.read_row_group(group, columns=[leaf.name], use_threads=False)
    return str(metadata.row_group(group).column(leaf.index).compression)


def _batch_rows(leaves: Sequence[Leaf], sizes: Sequence[ChunkSize]) -> int | None:
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
    for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=list(columns), use_threads=False):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            bytes_of[name] += _string_bytes(column)
        _check_size(bytes_of, where)
        batches.append(batch)
    return pa.Table.from_batches(batches)


def _check_place(leaf: Leaf, size: int, where: str) -> None:
    start, num_bytes = leaf.packed
    if start < 0 or num_bytes < 0 or leaf.num_values < 0 or start + num_bytes > size:
        raise InputError(f"{where}: column {leaf.name!r} lies outside the file, by its footer; write the shard again")


def _check_rows(leaf: Leaf, size: ChunkSize, num_rows: int, where: str) -> None:
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


def _narrowed(parquet: GuardedParquet, group: int, leaf: Leaf, size: ChunkSize, chunk: memoryview) -> ChunkSize:
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
    leaves: Sequence[Leaf],
    sizes: Sequence[ChunkSize],
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
    """Read it with `use_threads=False`: pyarrow's threads may still hold Python's buffers when the process ends, and
    then abort it (exit code 134, one `finf row` in twenty).

    Args:
        named: columns to read as indices into dictionaries; extension types would not be.
    """
    fetched.seek(0)
    options = {"read_dictionary": list(named), "arrow_extensions_enabled": not named}
    return pq.ParquetFile(fetched, metadata=metadata, pre_buffer=False, **options)
