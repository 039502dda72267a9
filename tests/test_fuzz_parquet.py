"""Damaged Parquet: every outcome is rows or one of finf's errors in one line, never another exception or a hang."""

import io
from pathlib import Path
from typing import Any

import fuzz_counts
import parquet_footer as footer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_bytes import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finf_core.chat import PlainChat
from finf_core.errors import FinfError
from finf_core.spec import CorpusSpec
from tasks import guarded_read
from tasks.corpus import list_shards, plan_units, read_unit
from tasks.show_row import read_row

NUM_ROWS = 12
TEXTS = [f"row {row} of twelve, é" if row != 5 else None for row in range(NUM_ROWS)]
COLUMNS: dict[str, Any] = {
    "text": TEXTS,
    "id": [f"doc {row % 3}" for row in range(NUM_ROWS)],
    "date": pa.array(range(NUM_ROWS), pa.timestamp("ms", "UTC")),
    "ids": pa.array([[row, 2, 3] if row != 2 else None for row in range(NUM_ROWS)], pa.list_(pa.int32())),
    "meta": [{"body": text, "deep": {"n": 3}} for text in TEXTS],
    "chat": [[{"role": "user", "content": f"question {row}"}] * (row % 3) for row in range(NUM_ROWS)],
}
FORMS: list[dict[str, str]] = [
    {"text_column": "text", "id_column": "id", "date_column": "date"},
    {"tokens_column": "ids"},
    {"text_column": "meta.body", "source_column": "meta"},
    {"messages_column": "chat"},
    {"text_template": "{id}: {text} {meta.deep.n}"},
]


def written(**options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), buffer, row_group_size=5, **options)
    return buffer.getvalue()


FILES = [
    written(compression="none", use_dictionary=False),
    written(compression="zstd", data_page_version="2.0"),
    written(compression="snappy", store_schema=False),
    written(compression="gzip", store_schema=False, write_page_index=True),
    written(compression="none", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "PLAIN"}),
]


@pytest.fixture(scope="module", autouse=True)
def _small_limit() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded_read, "MAX_GROUP_BYTES", 64 * 2**20)
        yield


def check(path: Path, data: bytes, form: dict[str, str]) -> None:
    """Read as a scan and as `finf row` do."""
    fuzz_counts.tried["parquet"] += 1
    path.write_bytes(data)
    line = None
    try:
        read_everything(CorpusSpec(path=str(path), on_bad_row="skip", **form))
        read_row(str(path), 0)
    except FinfError as error:
        line = str(error)
    assert line is None or ("\n" not in line and path.name in line)


def read_everything(corpus: CorpusSpec) -> int:
    """The rows of all units, whose texts can be stored; returns how many."""
    num_rows = 0
    for unit in plan_units(list_shards(corpus)):
        for rows in read_unit(unit, corpus, PlainChat()):
            num_rows += len(rows)
            for row in rows:
                (row.text or "").encode()
                row.document_id.encode()
    return num_rows


@given(damaged(FILES), st.sampled_from(FORMS))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_damaged_bytes_are_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes, form: Any) -> None:
    check(tmp_path_factory.getbasetemp() / "damaged.parquet", data, form)


NUMBERS = st.one_of(
    st.integers(-3, 300), st.sampled_from([2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)])
)


@st.composite
def with_other_numbers(draw: st.DrawFn) -> bytes:
    """A file whose footer says other numbers, in up to three places, than it was written with."""

    def edit(file: footer.Struct) -> None:
        for _ in range(draw(st.integers(1, 3))):
            place: Any = file
            for _ in range(12):
                if not place:
                    break
                field = draw(st.sampled_from(sorted(place)))
                kind, value = place[field]
                if kind == footer.STRUCT:
                    place = value
                elif kind == footer.LIST and value[0] == footer.STRUCT and value[1]:
                    place = draw(st.sampled_from(value[1]))
                elif kind in (4, footer.I32, footer.I64):
                    place[field][1] = draw(NUMBERS)
                    break
                elif kind == footer.BINARY:
                    place[field][1] = draw(st.binary(max_size=20))
                    break

    return footer.edited(draw(st.sampled_from(FILES)), edit)


@given(with_other_numbers(), st.sampled_from(FORMS))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_footers_with_other_numbers_are_rows_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, form: Any
) -> None:
    check(tmp_path_factory.getbasetemp() / "lying.parquet", data, form)


def test_the_files_that_are_damaged_are_whole(tmp_path: Path) -> None:
    for data in FILES:
        assert footer.edited(data, lambda file: None) == data
        for form in FORMS:
            (tmp_path / "whole.parquet").write_bytes(data)
            assert read_everything(CorpusSpec(path=str(tmp_path / "whole.parquet"), **form)) == NUM_ROWS
