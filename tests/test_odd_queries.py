"""Query files of any bytes: each query is stored as it was written, or one line names file and row."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example

from finf_core.chat import PlainChat
from finf_core.errors import InputError
from finf_core.spec import QueriesSpec
from tasks import guarded_read
from tasks.checkpoint import load_language_model
from tasks.encode import encode_query
from tasks.queries import Query, load_queries, queries_table, read_queries
from tasks.storage import publish_table


def load(path: Path, data: bytes | None = None, **spec: Any) -> list[Query]:
    if data is not None:
        path.write_bytes(data)
    return load_queries(QueriesSpec(path=str(path), **spec), PlainChat())


def strings(*values: bytes) -> pa.Array:
    array = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(array), *array.buffers()[1:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"text": "ok"}\n{"text": "caf\xe9"}\n', "q.jsonl: row 1: is not valid UTF-8 (byte 13)"),
        (b'{"text": "ok"}\n\n{"text": "half \\ud800"}\n', "q.jsonl: row 1: the target holds half a character"),
        (b'{"text": "ok"}\n{"text": \n', "q.jsonl: row 1: is no JSON"),
        (b'{"text": "ok"}\n["text"]\n', "q.jsonl: row 1: is no JSON object"),
        (b'{"text": "ok"}\n' + b"[" * 10**5, "q.jsonl: row 1: is no JSON"),
        (b'{"text": "ok"}\n{"text": ' + b"9" * 10**4 + b"}", "q.jsonl: row 1: is no JSON"),
        (b'{"text": "ok"}\n{"text": null}', "q.jsonl: row 1: column 'text' holds null, not text"),
        (b'{"text": "ok"}\n{"body": "x"}', "q.jsonl: row 1: no column 'text'"),
        (b'[{"text": "ok"}, 3]', "q.jsonl: row 1: is no JSON object"),
        (b"", "q.jsonl: no queries in it"),
        (b'\xff\xfe{\x00"\x00', "q.jsonl: row 0: is not valid UTF-8"),
    ],
    ids=["latin-1", "surrogate", "cut", "list", "deep", "digits", "null", "column", "number", "empty", "utf-16"],
)
def test_a_bad_line_is_named_by_file_and_row(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path / "q.jsonl", data)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_json_may_hold_is_stored_read_back_and_tokenised(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = (
        '\ufeff{"text": "nul \\u0000 here"}\r\n{"text": "\\ud83d\\ude00 line\\u2028separator"}\n{"text": 7}\n'.encode()
    )
    queries = load(tmp_path / "q.jsonl", data)
    assert [query.target for query in queries] == ["nul \0 here", "😀 line\u2028separator", "7"]
    publish_table(str(tmp_path / "stored.parquet"), queries_table(queries))
    assert read_queries(str(tmp_path / "stored.parquet")) == queries
    spec = scan_example.scan_spec(tiny_checkpoint, "c", "q").model
    model = load_language_model(spec)
    assert all(encode_query(model, spec, query) for query in queries)


def test_a_json_list_and_a_spread_out_one_are_read_too(tmp_path: Path) -> None:
    data = b' [\n {"text": "one"},\n {"text": "two"}\n]\n'
    assert [query.target for query in load(tmp_path / "q.json", data)] == ["one", "two"]


BROKEN = strings(b"good", b"caf\xe9")


@pytest.mark.parametrize(
    ("columns", "spec"),
    [
        ({"text": BROKEN}, {}),
        ({"text": ["a", "b"], "name": BROKEN}, {"id_column": "name"}),
        ({"meta": pa.StructArray.from_arrays([BROKEN], ["text"])}, {"target": "{meta.text}"}),
        ({"text": ["a", "b"], "q": BROKEN}, {"context": "{q}"}),
        (
            {
                "chat": pa.ListArray.from_arrays(
                    pa.array([0, 1, 2], pa.int32()),
                    pa.StructArray.from_arrays([pa.array(["assistant"] * 2), BROKEN], ["role", "content"]),
                )
            },
            {"messages_column": "chat"},
        ),
    ],
    ids=["target", "id", "field", "context", "chat"],
)
def test_parquet_that_is_not_utf8_is_named_by_file_row_and_column(
    tmp_path: Path, columns: dict[str, Any], spec: dict[str, str]
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "q.parquet", row_group_size=1)
    with pytest.raises(InputError, match=r"q\.parquet: row 1: column '\w+' is not valid UTF-8"):
        load(tmp_path / "q.parquet", **spec)


def test_a_column_of_parquet_that_is_not_needed_may_hold_anything(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "other": BROKEN}), tmp_path / "q.parquet")
    assert [query.target for query in load(tmp_path / "q.parquet")] == ["a", "b"]
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="no column 'body'; the columns are 'text'"):
        load(tmp_path / "q.parquet", target="{body}")


def test_a_query_file_that_decodes_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_read, "MAX_GROUP_BYTES", 2**20)
    pq.write_table(pa.table({"text": ["a" * 10**6] * 3}), tmp_path / "q.parquet", compression="zstd")
    with pytest.raises(InputError, match=r"q\.parquet: row group 0: column 'text' decodes to more than finf holds"):
        load(tmp_path / "q.parquet")


def test_controls_are_read_with_the_same_care(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "half \\udfff"}\n')
    spec = QueriesSpec(path=str(tmp_path / "q.jsonl"), controls=str(tmp_path / "c.jsonl"))
    (tmp_path / "q.jsonl").write_bytes(b'{"text": "ok"}\n')
    with pytest.raises(InputError, match=r"c\.jsonl: row 0: the target holds half a character"):
        load_queries(spec)
    assert len(load_queries(dataclasses.replace(spec, controls=None))) == 1
