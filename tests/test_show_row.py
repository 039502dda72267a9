"""`finf row`: the row that a report points at."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finf_core.errors import InputError
from tasks.show_row import describe_row, read_row


@pytest.fixture
def shard(tmp_path: Path) -> str:
    table = pa.table({"text": [f"row {index}\x1b[2J" for index in range(10)], "more": [{"a": i} for i in range(10)]})
    pq.write_table(table, tmp_path / "shard.parquet", row_group_size=4)
    return str(tmp_path / "shard.parquet")


@pytest.mark.parametrize("row", [0, 3, 4, 9])
def test_a_row_is_found_in_any_row_group(shard: str, row: int) -> None:
    assert read_row(shard, row) == {"text": f"row {row}\x1b[2J", "more": {"a": row}}


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_is_not_there_is_refused(shard: str, row: int) -> None:
    with pytest.raises(InputError, match=f"has no row {row}; its rows are 0 to 9"):
        read_row(shard, row)


def test_what_is_printed_moves_no_cursor(shard: str) -> None:
    assert "\x1b" not in describe_row(read_row(shard, 1))
    assert "row 1" in describe_row(read_row(shard, 1))
