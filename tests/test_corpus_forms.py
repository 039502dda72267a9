"""The same rows in other forms give the same scores: fields of structs, text of several columns, chats."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
from chat_tokenizers import MARKED, STRICT, with_template
from test_shard_scorer import RATIO_TOLERANCE, score_everything

from finf_core.chat import PlainChat, read_messages
from finf_core.errors import InputError
from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, ScanSpec
from tasks.base_losses import read_base
from tasks.corpus import CorpusRow, list_shards, plan_units, read_unit
from tasks.publish_report import publish_report
from tasks.queries import read_queries
from tasks.read_report import read_report
from tasks.resolve_inputs import find_inputs, resolve_inputs
from tasks.score_shards import planned_units
from tasks.shard_scorer import ShardScorer
from tasks.storage import read_table

TEXTS = scan_example.corpus_texts(48)
IDS = [f"doc-{row}" for row in range(len(TEXTS))]
CHATS = [
    [
        {"role": "user", "content": text[: len(text) // 2]},
        {"role": "assistant", "content": text[len(text) // 2 :]},
        {"role": "user", "content": "red or blue?"},
        {"role": "assistant", "content": "one red cat and " + text[:9]},
    ]
    for text in TEXTS
]


def write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> str:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "shard.parquet", row_group_size=10)
    return str(folder)


def spec_of(model: Path, folder: Path, corpus: CorpusSpec) -> ScanSpec:
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    spec = scan_example.scan_spec(model, "", queries, kind="sgd", difference="forward")
    return dataclasses.replace(spec, corpus=corpus)


def top(spec: ScanSpec, store: Path) -> list[dict[str, Any]]:
    """The best rows of each query after a whole scan, bit by bit, wherever the shard lies."""
    rows = read_table(score_everything(spec, store).file("top.parquet")).to_pylist()
    return [{**row, "shard": ""} for row in rows]


def flat(model: Path, folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    rows = [{"id": name, "text": text} for name, text in zip(IDS, texts, strict=True)]
    corpus = CorpusSpec(path=write(folder / "flat", rows), id_column="id")
    return top(spec_of(model, folder, corpus), folder / "flat-store")


def read(corpus: CorpusSpec) -> list[CorpusRow]:
    units = plan_units(list_shards(corpus))
    return [row for unit in units for rows in read_unit(unit, corpus, PlainChat()) for row in rows]


def refusal(spec: ScanSpec) -> str:
    with pytest.raises(InputError) as error:
        find_inputs(spec, scan_example.run_options("unused"))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- fields of structs -----------------------------------------------------------------------------------------------


def test_text_and_id_in_structs_give_the_very_scores_of_flat_columns(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"meta": {"id": name, "body": {"text": t}}, "n": 1} for name, t in zip(IDS, TEXTS, strict=True)]
    corpus = CorpusSpec(path=write(tmp_path / "c", rows), text_column="meta.body.text", id_column="meta.id")
    found = top(spec_of(tiny_checkpoint, tmp_path, corpus), tmp_path / "store")
    assert found == flat(tiny_checkpoint, tmp_path, TEXTS)
    assert len(found) > 40


def test_the_text_of_a_null_struct_is_null_and_its_row_is_named(tmp_path: Path) -> None:
    rows = [{"meta": {"text": "red"}}, {"meta": {"text": None}}, {"meta": None}, {"meta": {"text": "cat"}}]
    found = read(CorpusSpec(path=write(tmp_path / "c", rows), text_column="meta.text"))
    assert [(row.text, row.flaw) for row in found] == [
        ("red", None),
        (None, "text is null"),
        (None, "text is null"),
        ("cat", None),
    ]


def test_token_ids_may_lie_in_a_struct(tmp_path: Path) -> None:
    rows = [{"x": {"ids": [1, 2]}}, {"x": None}, {"x": {"ids": []}}, {"x": {"ids": [3]}}]
    found = read(CorpusSpec(path=write(tmp_path / "c", rows), tokens_column="x.ids"))
    assert [None if row.token_ids is None else row.token_ids.tolist() for row in found] == [[1, 2], None, None, [3]]
    assert [row.flaw for row in found][1:3] == ["the list of tokens is null", "the list of tokens is empty"]


def test_a_field_that_is_missing_or_no_text_is_named_with_all_that_there_is(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "c", [{"meta": {"text": "red", "size": 3}, "id": "a"}])
    spec = spec_of(tiny_checkpoint, tmp_path, CorpusSpec(path=path, text_column="meta.body"))
    line = refusal(spec)
    assert "shard.parquet: no column 'meta.body' (corpus.text_column)" in line
    assert "the columns are meta.text, meta.size, id" in line
    for name, kind in (("meta.size", "int64"), ("meta", "struct<text: string, size: int64>")):
        spec = dataclasses.replace(spec, corpus=CorpusSpec(path=path, text_column=name))
        assert f"column {name!r} holds {kind}, not text" in refusal(spec)
    spec = dataclasses.replace(spec, corpus=CorpusSpec(path=path, text_column="meta.text", id_column="meta.uuid"))
    assert "no column 'meta.uuid' (corpus.id_column)" in refusal(spec)


# ---- text of several columns -----------------------------------------------------------------------------------------


def test_a_template_gives_the_very_scores_of_the_text_written_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"id": n, "q": t[:7], "meta": {"a": t[7:], "year": 1990 + len(t)}} for n, t in zip(IDS, TEXTS, strict=True)]
    template = "{q}{meta.a} ({meta.year})"
    corpus = CorpusSpec(path=write(tmp_path / "c", rows), text_template=template, id_column="id")
    found = top(spec_of(tiny_checkpoint, tmp_path, corpus), tmp_path / "store")
    assert found == flat(tiny_checkpoint, tmp_path, [f"{text} ({1990 + len(text)})" for text in TEXTS])


def test_a_row_with_a_null_column_is_named_and_a_missing_column_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"q": "red", "a": "cat", "l": [1]}, {"q": "one", "a": None, "l": [1]}, {"q": " ", "a": "", "l": [1]}]
    corpus = CorpusSpec(path=write(tmp_path / "c", rows), text_template="{q}\n{a}")
    assert [(row.text, row.flaw) for row in read(corpus)] == [
        ("red\ncat", None),
        (None, "column 'a' holds null, not text"),
        (" \n", "text is empty"),
    ]
    with pytest.raises(InputError, match=r"row 1: column 'a' holds null, not text \(template '\{q\}"):
        score_everything(spec_of(tiny_checkpoint, tmp_path, corpus), tmp_path / "store")
    wrong = dataclasses.replace(corpus, text_template="{q}{b}")
    assert "no column 'b' (corpus.text_template)" in refusal(spec_of(tiny_checkpoint, tmp_path, wrong))
    wrong = dataclasses.replace(corpus, text_template="{q}{l}")
    assert "column 'l' holds list<element: int64>, not text or numbers" in refusal(
        spec_of(tiny_checkpoint, tmp_path, wrong)
    )


# ---- chats -----------------------------------------------------------------------------------------------------------


def chat_spec(model: Path, folder: Path, template: str = "plain", chats: Any = CHATS, **corpus: Any) -> ScanSpec:
    rows = [{"id": name, "messages": chat} for name, chat in zip(IDS, chats, strict=True)]
    of_chats = CorpusSpec(path=write(folder / "chats", rows), messages_column="messages", id_column="id", **corpus)
    spec = spec_of(model, folder, of_chats)
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, chat_template=template))


def test_plain_chats_give_the_very_scores_of_their_text(tiny_checkpoint: Path, tmp_path: Path) -> None:
    texts = [PlainChat().write(read_messages(chat), False).text for chat in CHATS]
    found = top(chat_spec(tiny_checkpoint, tmp_path), tmp_path / "store")
    assert found == flat(tiny_checkpoint, tmp_path, texts)


@pytest.mark.parametrize("template", ["plain", "tokenizer"])
def test_where_only_answers_count_the_whole_row_of_a_copied_chat_has_a_ratio_of_one(
    tiny_checkpoint: Path, tmp_path: Path, template: str
) -> None:
    model = with_template(tiny_checkpoint, tmp_path / "model", MARKED)
    chats = [chat[:2] for chat in CHATS]  # one answer each, so that row and query have the same targets
    spec = chat_spec(model, tmp_path, template, chats, loss_on="assistant")
    path = write(tmp_path / "asked", [{"m": chats[place]} for place in (37, 3, 8)])
    spec = dataclasses.replace(spec, queries=QueriesSpec(path=f"{path}/shard.parquet", messages_column="m"))
    job = score_everything(spec, tmp_path / "store")
    rows = read_table(job.file("top.parquet")).to_pylist()
    of = {(row["query_id"], row["document_id"]): row for row in rows}
    copies = [of[key] for key in (("0", "doc-37"), ("1", "doc-3"), ("2", "doc-8"))]
    assert [row["row_ratio"] for row in copies] == pytest.approx([1, 1, 1], abs=RATIO_TOLERANCE)
    assert [row["mirror_ratio"] for row in copies] == pytest.approx([1, 1, 1], abs=RATIO_TOLERANCE)
    assert rows[0]["text_excerpt"].startswith("user: " if template == "plain" else "<bos><|user|>")
    publish_report(job, [])
    assert read_report(job.run_uri)["queries"][0]["leaked"]


def test_what_counts_is_known_again_when_a_further_run_may_cache_tokens(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec = chat_spec(tiny_checkpoint, tmp_path, loss_on="assistant")
    found = []
    for _ in range(2):
        job = resolve_inputs(
            spec, dataclasses.replace(scan_example.run_options(str(tmp_path / "store")), cache_tokens=True)
        )
        scorer = ShardScorer(job)
        scorer.count_words(job)
        for query in read_queries(job.queries_uri):
            scorer.solve_update(query)
        found.append([dataclasses.replace(scorer.score(unit), seconds=0.0) for unit in planned_units(job)])
        for path in (tmp_path / "store" / "cache").glob("scores-*/*.parquet"):
            path.unlink()
    assert found[0] == found[1]
    entries = [read_base(str(path)) for path in (tmp_path / "store" / "cache").glob("base-*/*.parquet")]
    assert [entry is not None and entry.token_ids is None for entry in entries] == [True]  # they would lose the mask
    said = sum(len(scorer.model.tokenizer(m["content"])["input_ids"]) for chat in CHATS for m in chat[1::2])
    assert sum(receipt.num_targets for receipt in found[0]) == pytest.approx(said, abs=4 * len(CHATS))


BAD_CHATS = [
    CHATS[0],
    None,
    [],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": "red"}],
    CHATS[1][1:],
]
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])


def bad_chats(folder: Path, **corpus: Any) -> CorpusSpec:
    rows = [{"messages": chat} for chat in BAD_CHATS]
    path = write(folder / "bad", rows, pa.schema([("messages", pa.list_(MESSAGE))]))
    return CorpusSpec(path=path, messages_column="messages", **corpus)


def test_bad_chats_are_named_or_skipped_as_the_config_says(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = with_template(tiny_checkpoint, tmp_path / "model", STRICT)
    spec = spec_of(model, tmp_path, bad_chats(tmp_path, loss_on="assistant"))
    with pytest.raises(InputError, match=r"row 1: the list of messages is null \(column 'messages'\)"):
        score_everything(spec, tmp_path / "store")
    spec = dataclasses.replace(spec, corpus=dataclasses.replace(spec.corpus, on_bad_row="skip"))
    job = score_everything(spec, tmp_path / "store")
    publish_report(job, [])
    assert [(line["row"], line["reason"]) for line in read_report(job.run_uri)["skipped_rows"]] == [
        (1, "the list of messages is null"),
        (2, "the list of messages is empty"),
        (3, "message 0: content is null"),
        (4, "nothing in it is said by the assistant"),
        (5, "the chat template refuses the messages: a user speaks first"),
    ]


def test_a_column_without_messages_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, value in (("strings", ["a"]), ("parts", [{"role": "user", "content": ["a"]}]), ("one", {"role": "x"})):
        corpus = CorpusSpec(path=write(tmp_path / name, [{"m": value}]), messages_column="m")
        spec = spec_of(tiny_checkpoint, tmp_path, corpus)
        plain = dataclasses.replace(spec, model=ModelSpec(path=str(tiny_checkpoint), chat_template="plain"))
        assert "column 'm' holds" in (line := refusal(plain))
        assert "not lists of {role, content} or {from, value}, both text" in line


def test_chats_are_never_read_without_a_way_to_write_them(tmp_path: Path) -> None:
    corpus = bad_chats(tmp_path)
    with pytest.raises(InputError, match="chats need a chat template"):
        list(read_unit(next(plan_units(list_shards(corpus))), corpus))
