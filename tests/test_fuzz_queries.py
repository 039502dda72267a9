"""Query files of damaged bytes: every outcome is queries that can be stored, or one line that names the file."""

import io
import json
from pathlib import Path
from typing import Any

import fuzz_counts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_bytes import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finf_core.chat import PlainChat
from finf_core.errors import FinfError
from finf_core.spec import QueriesSpec
from tasks.queries import load_queries, queries_table

LINES = [
    b'{"id": "a", "q": "\\u00e9?", "text": "red \\ud83d\\ude00", "n": 3}\n{"id": "b", "q": "x", "text": "blue"}\n',
    b'[{"id": 1, "q": "x", "text": "y"}, {"id": 2, "q": null, "text": "z"}]',
    b'{"q": "x", "text": 1e5, "choices": ["Oslo", "Paris"], "answer": 1}\n',
    b'{"text": "t", "chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}\r\n' * 2,
    b'\xef\xbb\xbf{"text": "\\u0000", "meta": {"text": "deep", "n": [1, 2.5, true]}}\n\n{"text": "\xe2\x80\xa8"}',
]
SPECS: list[dict[str, str]] = [
    {},
    {"context": "{q}\n", "id_column": "id"},
    {"target": "{meta.text}"},
    {"messages_column": "chat"},
    {"choices_column": "choices", "answer_column": "answer", "target": "{answer_label}. {answer}"},
]


def parquet_file(**options: Any) -> bytes:
    buffer = io.BytesIO()
    columns = {
        "id": ["a", "b"],
        "q": ["x", None],
        "text": ["red", "blue"],
        "meta": [{"text": "deep"}, None],
        "choices": [["Oslo", "Paris"]] * 2,
        "answer": [1, 0],
        "chat": [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]] * 2,
    }
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


PARQUET = [parquet_file(), parquet_file(compression="none", use_dictionary=False, store_schema=False)]


def check(path: Path, data: bytes, spec: dict[str, str]) -> None:
    fuzz_counts.tried["queries"] += 1
    path.write_bytes(data)
    line = None
    try:
        queries_table(load_queries(QueriesSpec(path=str(path), **spec), PlainChat())).validate(full=True)
    except FinfError as error:
        line = str(error)
    assert line is None or ("\n" not in line and path.name in line)


@given(damaged(LINES), st.sampled_from(SPECS))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_damaged_json_is_queries_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes, spec: Any) -> None:
    check(tmp_path_factory.getbasetemp() / "damaged.jsonl", data, spec)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "role", "content", ""]), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["id", "q", "text", "meta", "meta.text", "choices", "answer", "chat"])


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5), max_size=3), st.sampled_from(SPECS))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_any_json_objects_are_queries_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], spec: Any
) -> None:
    data = "\n".join(json.dumps(row) for row in rows).encode()
    check(tmp_path_factory.getbasetemp() / "any.jsonl", data, spec)


@given(damaged(PARQUET), st.sampled_from(SPECS))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_damaged_parquet_is_queries_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, spec: Any
) -> None:
    check(tmp_path_factory.getbasetemp() / "damaged.parquet", data, spec)
