"""Column templates: text with `{column}` in it, filled from one row. Nothing is ever evaluated."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from finf_core.errors import InputError


def template_columns(template: str) -> list[str]:
    """The columns that a template names, in order.

    Raises:
        InputError: an unbalanced brace, or more than a plain column name between braces.
    """
    return [column for _, column in _parse(template) if column is not None]


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """The template with each `{column}` replaced by the row's text; `{{` and `}}` are braces.

    Raises:
        InputError: a column is missing, or its value is not text or a number.
    """
    return "".join(literal + ("" if column is None else _text(row, column)) for literal, column in _parse(template))


def _parse(template: str) -> list[tuple[str, str | None]]:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"template {template!r}: {error}") from error
    for _, column, format_spec, conversion in parts:
        if column is not None and (format_spec or conversion or not column or set(column) & set(".[]")):
            raise InputError(f"template {template!r}: only plain column names such as {{question}} may stand in braces")
    return [(literal, column) for literal, column, _, _ in parts]


def _text(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise InputError(f"no column {column!r}; the columns are {', '.join(map(repr, row))}")
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"column {column!r} holds {'null' if value is None else type(value).__name__}, not text")
    return str(value)
