"""One row of a shard, as a person wants to see it who has its number from a report."""

from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.errors import InputError
from finf_core.report.visible import visible_line, visible_text
from tasks import storage
from tasks.python_values import UNREADABLE, label_values, python_values


def read_row(shard: str, row: int) -> dict[str, Any]:
    """Every column of one row; only its row group is fetched.

    Raises:
        InputError: there is no such shard, or it has fewer rows.
    """
    with storage.open_parquet(shard) as file:
        metadata = file.metadata
        ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        if not 0 <= row < metadata.num_rows:
            raise InputError(f"{shard}: has no row {row}; its rows are 0 to {metadata.num_rows - 1}")
        group = int(np.searchsorted(ends, row, side="right"))
        table = storage.read_row_group(file, group, file.schema_arrow.names, shard)
    first = int(ends[group - 1]) if group else 0
    found = table.slice(row - first, 1)
    return {name: _shown(column) for name, column in zip(found.column_names, found.columns, strict=True)}


def _shown(column: pa.ChunkedArray) -> Any:
    [value] = python_values(column)
    [label] = label_values(column)
    return label if value is UNREADABLE else value


def describe_row(found: dict[str, Any]) -> str:
    """A heading for each column, and what it holds below; hidden characters are spelled out."""
    return "\n".join(f"── {visible_line(name)}\n{visible_text(str(value))}" for name, value in found.items())
