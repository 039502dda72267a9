"""Arrow values as Python's, one bad one not spoiling the rest: text need not be UTF-8, nor a date a date."""

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

UNREADABLE: Final = object()  # in the place of a value that Python cannot hold
# what as_py raises of broken UTF-8, dates beyond the year 9999, time zones that are none, depths that are too many
_REFUSALS = (ValueError, OverflowError, KeyError, TypeError, RecursionError, pa.ArrowException, NotImplementedError)


def python_values(column: pa.Array | pa.ChunkedArray) -> Iterator[Any]:
    """Each value, or `UNREADABLE`."""
    try:
        yield from column.to_pylist()
    except _REFUSALS:
        yield from map(_value, column)


def label_values(column: pa.Array | pa.ChunkedArray) -> Iterator[str | None]:
    """Each value as people read it; bytes that are no UTF-8 become �, and so does what cannot be read at all."""
    for value, scalar in zip(python_values(column), column, strict=True):
        yield None if value is None else _lenient(scalar) if value is UNREADABLE else str(value)


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except _REFUSALS:
        return UNREADABLE


def _lenient(scalar: pa.Scalar) -> str:
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if isinstance(scalar, (pa.StringScalar, pa.LargeStringScalar, pa.StringViewScalar)):
        return bytes(scalar.as_buffer()).decode("utf-8", errors="replace")
    return "�"
