"""The headers of Parquet's pages: how much a column chunk decodes to, told without decoding it.

A footer may say anything about sizes, but a page is unpacked to the size, and to the number of values, that stand in
its own header. Headers are structs in Thrift's compact protocol (github.com/apache/parquet-format, parquet.thrift).
"""

from collections.abc import Iterator
from dataclasses import dataclass

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # kinds of pages; others are passed over
PLAIN_DICTIONARY, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 2, 7, 8  # encodings in which a value may cost next to nothing
MOST_PAGES = 100_000  # of one chunk: pages of a megabyte make up 100 GB
DEEPEST = 16  # structs within structs; a header has three

# of the compact protocol: what stands in a field
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS, _I32 = (4, 5, 6), 5

Struct = dict[int, "int | Struct"]  # field number -> value, of 32-bit integers and structs; the rest is passed over


class BadPageError(Exception):
    """What stands there is no page header, or one that no reader could believe."""


@dataclass(frozen=True)
class Page:
    kind: int
    unpacked_bytes: int
    num_values: int  # nulls included
    encoding: int
    start: int = 0  # of its content, within the chunk
    packed_bytes: int = 0


def read_pages(chunk: memoryview, num_values: int) -> Iterator[Page]:
    """The pages of a column chunk, until they hold `num_values` values or the chunk ends: as a reader takes them.

    Raises:
        BadPageError: a broken header, a negative size, or more than `MOST_PAGES` of them.
    """
    place = num_seen = num_pages = 0
    while place < len(chunk) and num_seen < num_values:
        header, place = _read_struct(chunk, place, 0)
        page = _page(header, place)
        place, num_pages = place + page.packed_bytes, num_pages + 1
        if num_pages > MOST_PAGES:
            raise BadPageError(f"more than {MOST_PAGES:,} pages")
        num_seen += page.num_values if page.kind in (DATA, DATA_V2) else 0
        yield page


def _page(header: Struct, start: int) -> Page:
    kind, unpacked, packed = (_number(header, field) for field in (1, 2, 3))
    inner = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0), {})
    if not isinstance(inner, dict):
        raise BadPageError("a page header without its kind")
    num_values, encoding = inner.get(1, 0), inner.get(4 if kind == DATA_V2 else 2, 0)
    if not isinstance(num_values, int) or not isinstance(encoding, int) or min(unpacked, packed, num_values) < 0:
        raise BadPageError("a page header with a negative size")
    return Page(kind, unpacked, num_values, encoding, start, packed)


def _number(header: Struct, field: int) -> int:
    found = header.get(field)
    if not isinstance(found, int):
        raise BadPageError("a page header without its sizes")
    return found


def _read_struct(data: memoryview, place: int, depth: int) -> tuple[Struct, int]:
    if depth > DEEPEST:
        raise BadPageError("a page header nested too deeply")
    struct: Struct = {}
    field = 0
    while True:
        head, place = _byte(data, place)
        if head == 0:
            return struct, place
        kind, step = head & 15, head >> 4
        if step:
            field += step
        else:
            field, place = _zigzag(data, place)
        value, place = _read_value(data, place, kind, depth)
        if value is not None:
            struct[field] = value


def _read_value(data: memoryview, place: int, kind: int, depth: int) -> tuple["int | Struct | None", int]:
    """A 32-bit integer or a struct; None for all else, which is passed over."""
    if kind == _STRUCT:
        return _read_struct(data, place, depth + 1)
    if kind in _INTEGERS:
        value, place = _zigzag(data, place)
        return (value if kind == _I32 else None), place
    return None, _pass_over(data, place, kind, depth)


def _pass_over(data: memoryview, place: int, kind: int, depth: int) -> int:
    if kind in (_TRUE, _FALSE):
        return place
    if kind == _BYTE:
        return place + 1
    if kind == _DOUBLE:
        return place + 8
    if kind == _BINARY:
        size, place = _varint(data, place)
        return place + size
    raise BadPageError(f"a page header with a field of kind {kind}, which none has")


def _zigzag(data: memoryview, place: int) -> tuple[int, int]:
    raw, place = _varint(data, place)
    return (raw >> 1) ^ -(raw & 1), place


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, place = _byte(data, place)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise BadPageError("a page header with an endless number")


def _byte(data: memoryview, place: int) -> tuple[int, int]:
    if place >= len(data):
        raise BadPageError("a page header that breaks off")
    return data[place], place + 1
