"""Rows that are too long or not UTF-8: bad rows like all others; labels never make a row bad."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example

from finf_core.chat import PlainChat
from finf_core.errors import InputError
from finf_core.spec import CorpusSpec
from tasks import encode
from tasks.bad_rows import sort_out_bad_rows
from tasks.checkpoint import load_language_model
from tasks.corpus import CorpusRow, list_shards, plan_units, read_unit
from tasks.encode import tokens_of
from tasks.show_row import read_row

BROKEN = b"caf\xe9 \xff"  # Latin-1: no UTF-8
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def text(*values: bytes | None) -> pa.Array:
    """Strings of any bytes, as a file may hold them."""
    array = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(array), *array.buffers()[1:], null_bitmap=array.buffers()[0])


def chats(*contents: bytes) -> pa.Array:
    messages = pa.StructArray.from_arrays([pa.array(["user"] * len(contents)), text(*contents)], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array(range(len(contents) + 1), pa.int32()), messages)


def read(folder: Path, columns: dict[str, Any], **corpus: Any) -> list[CorpusRow]:
    pq.write_table(pa.table(columns), folder / "shard.parquet", row_group_size=10)
    spec = CorpusSpec(path=str(folder / "shard.parquet"), **corpus)
    return [
        row for unit in plan_units(list_shards(spec)) for group in read_unit(unit, spec, PlainChat()) for row in group
    ]


FORMS = [
    ({"text_column": "body"}, {"body": text(b"good", BROKEN)}),
    ({"text_column": "body"}, {"body": text(b"good", BROKEN).dictionary_encode()}),
    ({"text_column": "meta.body"}, {"meta": pa.StructArray.from_arrays([text(b"good", BROKEN)], ["body"])}),
    ({"text_template": "{q}{a}"}, {"q": ["go", "q"], "a": text(b"od", BROKEN)}),
    ({"messages_column": "chat"}, {"chat": chats(b"good", BROKEN)}),
]


@pytest.mark.parametrize(("key", "columns"), FORMS, ids=["text", "dictionary", "field", "template", "chat"])
def test_text_that_is_not_utf8_is_a_flaw_of_its_row_alone(
    tmp_path: Path, key: dict[str, str], columns: dict[str, Any]
) -> None:
    good, bad = read(tmp_path, columns, **key)
    assert good.flaw is None
    assert "good" in str(good.text)
    assert str(bad.flaw).startswith("text is not valid UTF-8")
    spec = CorpusSpec(path="c", **key)
    with pytest.raises(InputError, match=r'shard: row 1: text is not valid UTF-8 .*mend it, or .*on_bad_row = "skip"'):
        sort_out_bad_rows([good, bad], "shard", spec)
    skip = dataclasses.replace(spec, on_bad_row="skip")
    assert sort_out_bad_rows([good, bad], "shard", skip) == ([good], [("shard", 1, bad.flaw)])


def test_labels_that_are_not_utf8_or_no_dates_are_shown_as_far_as_they_can_be(tmp_path: Path) -> None:
    columns = {
        "text": ["one", "two"],
        "id": text(b"a", BROKEN),
        "source": text(BROKEN, None),
        "date": pa.array([0, 2**60], pa.timestamp("ms")),  # the second lies beyond the year 9999
    }
    first, second = read(tmp_path, columns, id_column="id", source_column="source", date_column="date")
    assert [row.flaw for row in (first, second)] == [None, None]
    assert (first.document_id, second.document_id) == ("a", "caf� �")
    assert (first.source, second.source) == ("caf� �", None)
    assert (first.date, second.date) == ("1970-01-01 00:00:00", "�")
    assert read_row(str(tmp_path / "shard.parquet"), 1) == {"text": "two", "id": "caf� �", "source": None, "date": "�"}


LONG_FORMS = [
    ({"text_column": "body"}, {"body": ["x" * 100, "é" * 51, "é" * 50]}, "text of 102 bytes"),
    ({"text_template": "{q}{a}"}, {"q": ["x", "é" * 25, ""], "a": ["y", "é" * 26, "z"]}, "text of 102 bytes"),
    ({"messages_column": "chat"}, {"chat": chats(b"x" * 50, b"y" * 101, b"z")}, "a chat of 101 bytes"),
    ({"tokens_column": "ids"}, {"ids": [[1] * 12, [1] * 13, [1]]}, "a list of tokens of 104 bytes"),
]


@pytest.mark.parametrize(("key", "columns", "words"), LONG_FORMS, ids=["text", "template", "chat", "tokens"])
def test_a_row_longer_than_the_limit_is_a_bad_row_that_names_its_size_and_the_key(
    tmp_path: Path, key: dict[str, str], columns: dict[str, Any], words: str
) -> None:
    first, second, third = read(tmp_path, columns, max_row_bytes=100, **key)
    assert (first.flaw, third.flaw) == (None, None)
    wanted = f"{words} is longer than corpus.max_row_bytes = 100; split it, or raise the limit"
    assert (second.flaw, second.text, second.token_ids) == (wanted, None, None)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"corpus\.max_row_bytes must be at least 1"):
        CorpusSpec(path="c", max_row_bytes=0)


def test_texts_that_are_tokenised_in_portions_have_the_tokens_of_each_alone(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "PORTION_CHARACTERS", 20)
    model = load_language_model(scan_example.scan_spec(tiny_checkpoint, "c", "q").model)
    texts = ["red dog", "blue dog", "stone", "cat " * 10, "", "bird"]
    counted = ((0, 3),)
    for rows in (
        [CorpusRow(row, "", each) for row, each in enumerate(texts)],
        [CorpusRow(row, "", each, counted=counted) for row, each in enumerate(texts)],
    ):
        together = tokens_of(model, rows, "shard")
        alone = [tokens_of(model, [row], "shard")[0] for row in rows]
        assert [found.ids.tolist() for found in together] == [found.ids.tolist() for found in alone]
        assert [found.target_places().tolist() for found in together] == [
            found.target_places().tolist() for found in alone
        ]
