"""Column templates: text with `{column}` in it, filled from one row. Nothing is ever evaluated.

`{meta.answer}` is the field `answer` of the struct `meta`, looked up in plain dicts only, by the rule of
`finf_core.columns`: of several ways to read a dotted name, the one with the longest first name counts.
"""

from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any

from finf_core.errors import InputError


def template_columns(template: str) -> list[str]:
    """The columns that a template names, in order.

    Raises:
        InputError: an unbalanced brace, or more than a column name between braces.
    """
    return [column for _, column in _parse(template) if column is not None]


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """The template with each `{column}` replaced by the row's text; `{{` and `}}` are braces.

    Raises:
        InputError: a column is missing, or its value is not text or a number.
    """
    return "".join(literal + ("" if column is None else _text(row, column)) for literal, column in _parse(template))


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a field of a struct; None where the struct is null.

    Raises:
        InputError: there is none of that name.
    """
    found = list(_values_at(row, column))
    if not found:
        raise InputError(f"no column {column!r}; the columns are {', '.join(map(repr, _names(row)))}")
    return found[0]


def _parse(template: str) -> list[tuple[str, str | None]]:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"template {template!r}: {error}") from error
    for _, column, format_spec, conversion in parts:
        if column is not None and (format_spec or conversion or not _is_name(column)):
            raise InputError(
                f"template {template!r}: only plain column names such as {{question}} or {{meta.answer}} "
                "may stand in braces"
            )
    return [(literal, column) for literal, column, _, _ in parts]


def _is_name(column: str) -> bool:
    first, *fields = column.split(".")
    return bool(first) and not set(column) & set("[]") and all(f and not f.startswith("__") for f in fields)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = value_at(row, column)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"column {column!r} holds {'null' if value is None else type(value).__name__}, not text")
    return str(value)


def _values_at(row: Mapping[str, Any], column: str) -> Iterator[Any]:
    """One value for each way to read the name, the longest first name first."""
    parts = column.split(".")
    for num_parts in range(len(parts), 0, -1):
        head, rest = ".".join(parts[:num_parts]), ".".join(parts[num_parts:])
        if head not in row:
            continue
        if num_parts == len(parts) or row[head] is None:
            yield row[head]
        elif isinstance(row[head], dict):
            yield from _values_at(row[head], rest)


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from (f"{name}.{field}" for field in _names(value))
        else:
            yield name
