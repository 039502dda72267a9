"""Footers that lie: Thrift's compact protocol read into Python values, changed, and written back."""

from collections.abc import Callable
from typing import Any

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
I32, I64 = 5, 6
# fields of parquet.thrift
SCHEMA, NUM_ROWS, ROW_GROUPS = 2, 3, 4  # of the file
COLUMNS, GROUP_ROWS = 1, 3  # of a row group
META = 3  # of a column chunk
NUM_VALUES, UNPACKED, PACKED, DATA_OFFSET, DICTIONARY_OFFSET = 5, 6, 7, 9, 11  # of its metadata

Struct = dict[int, list[Any]]  # field -> [kind, value]; of a list (kind of its items, items)


def footer_of(file: bytes) -> bytes:
    num_bytes = int.from_bytes(file[-8:-4], "little")
    return file[-8 - num_bytes : -8]


def with_footer(file: bytes, footer: bytes) -> bytes:
    body = file[: -8 - len(footer_of(file))]
    return body + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def edited(file: bytes, edit: Callable[[Struct], None]) -> bytes:
    """The file after its footer was changed."""
    footer, _ = read_struct(footer_of(file), 0)
    edit(footer)
    return with_footer(file, write_struct(footer))


def edited_column(file: bytes, column: int, fields: dict[int, int]) -> bytes:
    """The file whose footer says something else of a column chunk of the first row group."""

    def edit(footer: Struct) -> None:
        metadata = footer[ROW_GROUPS][1][1][0][COLUMNS][1][1][column][META][1]
        for field, value in fields.items():
            metadata[field] = [I64, value]

    return edited(file, edit)


def edited_page(file: bytes, place: int, edit: Callable[[Struct], None]) -> bytes:
    """The file whose page header at a place says something else, in as many bytes."""
    header, end = read_struct(file, place)
    edit(header)
    written = write_struct(header)
    assert len(written) == end - place
    return file[:place] + written + file[end:]


def read_struct(data: bytes, place: int) -> tuple[Struct, int]:
    found: Struct = {}
    field = 0
    while head := data[place]:
        place += 1
        if head >> 4:
            field += head >> 4
        else:
            field, place = _read_number(data, place)
        value, place = _read(data, place, head & 15)
        found[field] = [head & 15, value]
    return found, place + 1


def write_struct(struct: Struct) -> bytes:
    written, last = b"", 0
    for field, (kind, value) in sorted(struct.items()):
        step = field - last
        written += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _number(field)
        written += _write(kind, value)
        last = field
    return written + b"\0"


def _read(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return None, place
    if kind == STRUCT:
        return read_struct(data, place)
    if kind in (BYTE, DOUBLE):
        size = 1 if kind == BYTE else 8
        return data[place : place + size], place + size
    if kind == BINARY:
        size, place = _read_varint(data, place)
        return data[place : place + size], place + size
    if kind in (LIST, SET):
        head, place = data[place], place + 1
        size, inner = head >> 4, head & 15
        if size == 15:
            size, place = _read_varint(data, place)
        items = []
        for _ in range(size):
            item, place = _read(data, place, BYTE if inner in (TRUE, FALSE) else inner)
            items.append(item)
        return (inner, items), place
    return _read_number(data, place)


def _write(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind == STRUCT:
        return write_struct(value)
    if kind in (BYTE, DOUBLE):
        return bytes(value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind in (LIST, SET):
        inner, items = value
        head = bytes([len(items) << 4 | inner]) if len(items) < 15 else bytes([0xF0 | inner]) + _varint(len(items))
        return head + b"".join(_write(BYTE if inner in (TRUE, FALSE) else inner, item) for item in items)
    return _number(value)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, place = data[place], place + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _read_number(data: bytes, place: int) -> tuple[int, int]:
    raw, place = _read_varint(data, place)
    return (raw >> 1) ^ -(raw & 1), place


def _varint(value: int) -> bytes:
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])


def _number(value: int) -> bytes:
    return _varint((value << 1) ^ (value >> 63))
