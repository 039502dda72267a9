"""Bad input: one clear line that names the file, row, column or key, and nothing half-written."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
import torch
from safetensors.torch import load_file, save_file

from finf_core.errors import CheckpointError, FinfError, InputError
from finf_core.spec import ModelSpec, ScanSpec
from tasks.checkpoint import load_language_model
from tasks.plan import plan_scan
from tasks.resolve_inputs import find_inputs, read_job, resolve_inputs


@pytest.fixture
def spec(tiny_checkpoint: Path, tmp_path: Path) -> ScanSpec:
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.corpus_texts(), num_shards=2)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    return scan_example.scan_spec(tiny_checkpoint, corpus, queries)


def refusal(spec: ScanSpec, tmp_path: Path) -> str:
    """The one line that resolving the spec ends with; nothing may be written."""
    with pytest.raises(FinfError) as error:
        resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()
    message = str(error.value)
    assert "\n" not in message
    return message


def with_corpus(spec: ScanSpec, **changes: object) -> ScanSpec:
    return dataclasses.replace(spec, corpus=dataclasses.replace(spec.corpus, **changes))


def with_queries(spec: ScanSpec, **changes: object) -> ScanSpec:
    return dataclasses.replace(spec, queries=dataclasses.replace(spec.queries, **changes))


def test_a_missing_column_is_named_with_those_that_are_there(spec: ScanSpec, tmp_path: Path) -> None:
    line = refusal(with_corpus(spec, text_column="body"), tmp_path)
    assert "shard-000.parquet: no column 'body' (corpus.text_column); the columns are id, text" in line
    assert "no column 'uuid' (corpus.id_column)" in refusal(with_corpus(spec, id_column="uuid"), tmp_path)


def test_a_column_that_is_not_text_is_refused(spec: ScanSpec, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": [1]}), tmp_path / "corpus" / "shard-009.parquet")
    assert "shard-009.parquet: column 'text' holds int64, not text" in refusal(spec, tmp_path)


def test_an_empty_shard_is_refused_or_skipped_as_the_config_says(spec: ScanSpec, tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "corpus" / "shard-009.parquet")
    assert "shard-009.parquet: the shard has no rows" in refusal(spec, tmp_path)
    inputs = find_inputs(with_corpus(spec, on_bad_row="skip"), scan_example.run_options("unused"))
    assert [shard.num_rows for shard in inputs.shards] == [48, 48, 0]
    only_empty = with_corpus(spec, on_bad_row="skip", path=str(tmp_path / "corpus" / "shard-009.parquet"))
    assert "no shard has any row" in refusal(only_empty, tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PAR1" * 9])
def test_a_corrupt_parquet_file_is_named(spec: ScanSpec, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    shard = tmp_path / "corpus" / "shard-001.parquet"
    shard.write_bytes(damage(shard.read_bytes()))
    assert "shard-001.parquet" in refusal(spec, tmp_path)


def test_a_corpus_or_a_query_file_that_is_not_there_is_named(spec: ScanSpec, tmp_path: Path) -> None:
    assert "nowhere" in refusal(with_corpus(spec, path=str(tmp_path / "nowhere" / "*.parquet")), tmp_path)
    assert "nowhere.jsonl" in refusal(with_queries(spec, path=str(tmp_path / "nowhere.jsonl")), tmp_path)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_queries_come_from_jsonl_too(spec: ScanSpec, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"n": "a", "q": "red", "a": "dog"}, {"n": "b", "q": "", "a": "cat"}])
    asked = with_queries(spec, path=path, context="{q} ", target="{a}", id_column="n")
    queries = find_inputs(asked, scan_example.run_options("unused")).queries
    found = [(query.query_id, query.context, query.target) for query in queries]
    assert found == [("a", "red ", "dog"), ("b", " ", "cat")]


def test_bad_queries_are_named_by_row(spec: ScanSpec, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": "x", "text": "red dog"}, {"id": "x", "text": "  "}]
    asked = with_queries(spec, path=write_jsonl(tmp_path / "q.jsonl", rows), context="", target="{text}")
    assert "q.jsonl: row 1: the target '{text}' is empty" in refusal(asked, tmp_path)
    rows[1]["text"] = "cat"
    asked = with_queries(asked, path=write_jsonl(tmp_path / "q2.jsonl", rows), id_column="id")
    assert "rows 0 and 1 have the same id 'x'" in refusal(asked, tmp_path)
    assert "row 0: no column 'answer'" in refusal(with_queries(asked, target="{answer}"), tmp_path)
    assert "only plain column names" in refusal(with_queries(asked, target="{text.__class__}"), tmp_path)


def test_a_z_score_without_other_queries_is_refused(spec: ScanSpec, tmp_path: Path) -> None:
    asked = dataclasses.replace(with_queries(spec, limit=2), rank=dataclasses.replace(spec.rank, by="control_z"))
    assert "rank.by = 'control_z' wants 3 queries, not 2; use 'row_ratio'" in refusal(asked, tmp_path)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_pickled_weights_are_refused_by_name(spec: ScanSpec, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    line = refusal(dataclasses.replace(spec, model=ModelSpec(path=str(checkpoint))), tmp_path)
    assert "pytorch_model.bin is pickled and could run code; save it as safetensors" in line


def test_a_digest_that_does_not_match_is_refused(spec: ScanSpec, checkpoint: Path, tmp_path: Path) -> None:
    pinned = dataclasses.replace(spec, model=ModelSpec(path=str(checkpoint), digest="0" * 64))
    assert "the config wants 0000" in refusal(pinned, tmp_path)


def test_the_digest_follows_the_content_and_not_the_place(spec: ScanSpec, checkpoint: Path) -> None:
    options = scan_example.run_options("unused")
    moved = dataclasses.replace(spec, model=dataclasses.replace(spec.model, path=str(checkpoint)))
    before, after = find_inputs(spec, options).job, find_inputs(moved, options).job
    assert (before.model_digest, before.scores_uri) == (after.model_digest, after.scores_uri)
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    changed = find_inputs(moved, options).job
    assert changed.model_digest != before.model_digest
    assert changed.scores_uri != before.scores_uri


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(checkpoint: Path) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += [
        {"id": 300 + index, "content": f"<extra{index}>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for index in range(5)
    ]
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"the tokenizer has 305 tokens, the model 300: they do not match"):
        load_language_model(ModelSpec(path=str(checkpoint)))


def test_a_missing_weight_is_refused_and_not_drawn_at_random(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_language_model(ModelSpec(path=str(checkpoint)))


def test_truncated_weights_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a header of .* in a file of 1,000"):
        load_language_model(ModelSpec(path=str(checkpoint)))


def test_a_context_longer_than_the_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"context_tokens = 4096, but .* was built for 128"):
        load_language_model(ModelSpec(path=str(checkpoint), context_tokens=4096))


def test_a_model_that_is_nowhere_is_refused(spec: ScanSpec, tmp_path: Path) -> None:
    nowhere = dataclasses.replace(spec, model=ModelSpec(path=str(tmp_path / "nowhere")))
    assert "nowhere: no such folder, and not in the hub's cache" in refusal(nowhere, tmp_path)


# ---- the record of a run, and its price ------------------------------------------------------------------------------


def test_a_job_is_read_back_as_it_was_written(spec: ScanSpec, tmp_path: Path) -> None:
    job = resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))
    assert read_job(job.run_uri) == job
    with pytest.raises(InputError, match="nothing-here"):
        read_job(str(tmp_path / "nothing-here"))


def test_a_plan_counts_rows_tokens_and_passes_and_writes_nothing(spec: ScanSpec, tmp_path: Path) -> None:
    plan = plan_scan(spec, scan_example.run_options(str(tmp_path / "store")))
    assert (plan.num_shards, plan.num_rows, plan.num_queries, plan.picked) == (2, 96, 4, "every_query")
    assert plan.sample_rows == 96  # of a small corpus the sample is all of it: the count of tokens is exact
    assert plan.num_tokens == 3618
    assert all(strategy.seconds > 0 for strategy in plan.strategies)
    assert not (tmp_path / "store").exists()
