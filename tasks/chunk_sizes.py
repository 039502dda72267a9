"""What the columns of a row group decode to, told from the headers of their pages (`tasks.page_headers`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from finf_core.errors import InputError
from tasks.fetched_file import Range
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

NUMBER_BYTES, STRING_BYTES = 12, 8  # a number as 64 bits with its levels; a string's offset and levels
WIDE_NUMBERS = ("INT96", "FIXED_LEN_BYTE_ARRAY")
NAMES = (PLAIN_DICTIONARY, RLE_DICTIONARY)


@dataclass(frozen=True)
class Leaf:
    name: str
    packed: Range
    num_values: int
    index: int  # of the file's columns of values
    kind: str  # the physical type
    is_repeated: bool  # lists: more values than rows
    width: int  # bytes of a number


@dataclass(frozen=True)
class ChunkSize:
    """What a column chunk decodes to, as far as its headers tell."""

    num_values: int
    least_bytes: int
    most_bytes: int
    longest_bytes: int  # no string is longer
    is_delta: bool = False  # strings that share beginnings
    num_named: int = 0  # strings that stand in the dictionary
    dictionary: Page | None = None


def _needed(metadata: pq.FileMetaData, columns: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Number and path of each column of values that these columns are made of."""
    for index in range(metadata.num_columns):
        path = metadata.schema.column(index).path
        if any(path == name or path.startswith(f"{name}.") for name in columns):
            yield index, path


def leaves_of(metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> Iterator[Leaf]:
    described = metadata.row_group(group)
    for index, path in _needed(metadata, columns):
        schema, chunk = metadata.schema.column(index), described.column(index)
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and chunk.dictionary_page_offset and chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        width = max(NUMBER_BYTES, schema.length if schema.physical_type in WIDE_NUMBERS else 0)
        packed = Range(start, chunk.total_compressed_size)
        kind, is_repeated = schema.physical_type, schema.max_repetition_level > 0
        yield Leaf(path, packed, chunk.num_values, index, kind, is_repeated, width)


def decoded_size(leaf: Leaf, chunk: memoryview, where: str) -> ChunkSize:
    try:
        pages = list(read_pages(chunk, leaf.num_values))
    except BadPageError as error:
        raise InputError(f"{where}: column {leaf.name!r} is damaged ({error}); write the shard again") from error
    unpacked = sum(page.unpacked_bytes for page in pages)
    num_values = sum(page.num_values for page in pages if page.kind in (DATA, DATA_V2))
    if leaf.kind != "BYTE_ARRAY":
        numbers = unpacked + num_values * leaf.width
        return ChunkSize(num_values, numbers, numbers, leaf.width)
    return _strings(pages, unpacked + num_values * STRING_BYTES)


def _strings(pages: Sequence[Page], least: int) -> ChunkSize:
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
    return ChunkSize(sum(page.num_values for page in data), least, most, longest, bool(delta), named, dictionary)
