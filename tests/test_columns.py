"""Columns by name, fields of structs too: `finf_core.columns`, on tables that Parquet gave back."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finf_core.columns import column_names, find_column, take_column

ROWS = [
    {"meta": {"body": {"text": "one", "length": 3}, "id": 7}, "x": "a"},
    {"meta": {"body": None, "id": 8}, "x": "b"},
    {"meta": None, "x": "c"},
]


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    return pq.read_table(tmp_path / "rows.parquet")


def test_a_field_of_a_struct_is_found_by_its_path_and_null_where_a_struct_is(table: pa.Table) -> None:
    assert find_column(table.schema, "meta.body.text") == (("meta", "body", "text"), pa.string())
    assert take_column(table, "meta.body.text").to_pylist() == ["one", None, None]
    assert take_column(table, "meta.id").to_pylist() == [7, 8, None]
    assert take_column(table, "x").to_pylist() == ["a", "b", "c"]
    assert column_names(table.schema) == ["meta.body.text", "meta.body.length", "meta.id", "x"]


@pytest.mark.parametrize("name", ["meta.text", "meta.body.text.more", "x.y", "", ".", "meta.", ".meta", "body.text"])
def test_what_is_not_there_is_not_found(table: pa.Table, name: str) -> None:
    assert find_column(table.schema, name) is None


def test_a_column_whose_own_name_has_a_dot_wins() -> None:
    row = {"a": {"b": {"c": "three names"}}, "a.b": {"c": "two names"}, "d": {"e": "field"}, "d.e": "column"}
    table = pa.Table.from_pylist([row])
    assert take_column(table, "a.b.c").to_pylist() == ["two names"]
    assert take_column(table, "d.e").to_pylist() == ["column"]
    assert take_column(table.drop_columns(["a.b", "d.e"]), "a.b.c").to_pylist() == ["three names"]


def test_a_longer_first_name_that_leads_nowhere_is_passed_over() -> None:
    table = pa.Table.from_pylist([{"a.b": {"x": 1}, "a": {"b": {"c": 2}}}])
    assert take_column(table, "a.b.c").to_pylist() == [2]
