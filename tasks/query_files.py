"""Query files, row by row: JSON lines, a JSON list, or Parquet; any bytes end in rows or in one line of error."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from finf_core.errors import InputError
from tasks import storage
from tasks.python_values import UNREADABLE, python_values

MAX_JSON_BYTES = 2**30  # of a file; as Python objects it takes several times as much
UTF8 = "utf-8-sig"  # with or without a byte order mark

Row = dict[str, Any]


def read_json_rows(item: storage.StoredObject) -> Iterator[Row]:
    """The object on each line, or each of the one list that the file is; empty lines are no rows.

    Raises:
        InputError: a row that is not UTF-8 or no JSON object; names the row.
    """
    if item.size_bytes > MAX_JSON_BYTES:
        raise InputError(f"{item.uri}: {item.size_bytes:,} bytes of JSON, more than {MAX_JSON_BYTES:,}; use Parquet")
    data = storage.read_bytes(item.uri)
    if data[:100].decode(UTF8, errors="replace").lstrip().startswith("["):
        yield from _objects(_parse(data, item.uri), item.uri)
        return
    lines = (line for line in data.splitlines() if line.strip())
    for row, line in enumerate(lines):
        yield from _objects([_parse(line, f"{item.uri}: row {row}")], item.uri, row)


def read_parquet_rows(item: storage.StoredObject, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, one row group in memory; of columns that are named, or of all where one is not there.

    Raises:
        InputError: a value that is not UTF-8; names the row and the column.
    """
    first_row = 0
    with storage.open_parquet(item.uri) as file:
        names = _needed(file.schema_arrow, columns)
        for group in range(file.metadata.num_row_groups):
            table = storage.read_row_group(file, group, names, item.uri)
            for index, values in enumerate(zip(*map(python_values, table.columns), strict=True)):
                row = dict(zip(table.column_names, values, strict=True))
                for name, value in row.items():
                    if value is UNREADABLE:
                        where = f"{item.uri}: row {first_row + index}: column {name!r}"
                        raise InputError(f"{where} is not valid UTF-8, or no value that can be read")
                yield row
            first_row += len(table)


def _needed(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """The top-level columns that hold them; all of them, for the error to name, where one is not there."""
    found = {
        column: [name for name in schema.names if column == name or column.startswith(f"{name}.")] for column in columns
    }
    names = {name for each in found.values() for name in each} if all(found.values()) else set()
    return [name for name in dict.fromkeys(schema.names) if name in names or not names]


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode(UTF8))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not valid UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON ({str(error).splitlines()[0]})") from error


def _objects(found: Any, uri: str, first_row: int = 0) -> Iterator[Row]:
    for row, value in enumerate(found, start=first_row):
        if not isinstance(value, dict):
            raise InputError(f"{uri}: row {row}: is no JSON object")
        yield value
