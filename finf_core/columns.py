"""Columns by name, fields of structs too: `meta.text` is the field `text` of the column `meta`.

A dot may also be part of a name: of several ways to read `a.b.c`, the one with the longest first name counts, so a
column that is called `a.b.c` wins.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

MOST_NAMES = 20  # in one error


class Column(NamedTuple):
    names: tuple[str, ...]  # from the top-level column down to the field
    kind: pa.DataType


def find_column(schema: pa.Schema, name: str) -> Column | None:
    """Where a column stands and what it holds; None where there is none of that name."""
    return _find(list(schema), name)


def take_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The values of a column that is there; a field of a null struct is null."""
    found = find_column(table.schema, name)
    if found is None:
        raise KeyError(name)
    top, *fields = found.names
    return pc.struct_field(table[top], fields) if fields else table[top]


def column_names(schema: pa.Schema) -> list[str]:
    """The name of every column, or of every field where it is a struct."""
    return [".".join(names) for field in schema for names in _leaves(field)]


def describe_columns(schema: pa.Schema) -> str:
    """The names, for an error: the first twenty."""
    names = column_names(schema)
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _find(fields: Sequence[pa.Field], name: str) -> Column | None:
    parts = name.split(".")
    for num_parts in range(len(parts), 0, -1):
        head, rest = ".".join(parts[:num_parts]), ".".join(parts[num_parts:])
        for field in fields:
            if field.name != head:
                continue
            if num_parts == len(parts):
                return Column((head,), field.type)
            if pa.types.is_struct(field.type) and (inner := _find(list(field.type), rest)):
                return Column((head, *inner.names), inner.kind)
    return None


def _leaves(field: pa.Field) -> Iterator[tuple[str, ...]]:
    if not pa.types.is_struct(field.type):
        yield (field.name,)
        return
    for inner in field.type:
        yield from ((field.name, *names) for names in _leaves(inner))
