"""A corpus that was tokenised before: the same scores as its text, and every flaw named."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example

from finf_core.errors import InputError
from finf_core.spec import CorpusSpec, ModelSpec, ScanSpec
from tasks.checkpoint import load_language_model
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.resolve_inputs import find_inputs, resolve_inputs
from tasks.score_shards import planned_units
from tasks.shard_scorer import ShardScorer
from tasks.unit_result import UnitReceipt, read_unit_result

TEXTS = scan_example.corpus_texts(48)


def write_tokens(folder: Path, lists: list[Any], kind: pa.DataType) -> str:
    """One shard of ten-row groups with columns `id` and `ids`."""
    folder.mkdir()
    columns = {"id": [f"doc-{index}" for index in range(len(lists))], "ids": pa.array(lists, kind)}
    pq.write_table(pa.table(columns), folder / "shard.parquet", row_group_size=10)
    return str(folder)


def score(spec: ScanSpec, store: Path) -> tuple[ScanJob, UnitReceipt]:
    """Every unit, without the checks before it; the receipts added up."""
    job = resolve_inputs(spec, scan_example.run_options(str(store)))
    scorer = ShardScorer(job)
    scorer.count_words(job)
    for query in read_queries(job.queries_uri):
        scorer.solve_update(query)
    return job, UnitReceipt.total([scorer.score(unit) for unit in planned_units(job)], 0.0)


def candidates(job: ScanJob) -> list[dict[str, Any]]:
    tables = [read_unit_result(job.score_uri(unit))[0] for unit in planned_units(job)]
    return [{**row, "shard": ""} for row in pa.concat_tables(tables).to_pylist()]


@pytest.fixture(scope="module")
def text_spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    folder = tmp_path_factory.mktemp("texts")
    corpus = scan_example.write_shards(str(folder / "corpus"), TEXTS, num_shards=1, group_rows=10)
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    return scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd", difference="forward")


@pytest.fixture(scope="module")
def token_lists(tiny_checkpoint: Path) -> list[list[int]]:
    lists: list[list[int]] = load_language_model(ModelSpec(path=str(tiny_checkpoint))).tokenizer(TEXTS)["input_ids"]
    return lists


def with_tokens(spec: ScanSpec, corpus: str, **changes: Any) -> ScanSpec:
    return dataclasses.replace(spec, corpus=CorpusSpec(path=corpus, tokens_column="ids", id_column="id", **changes))


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16())], ids=str)
def test_tokens_give_the_very_scores_and_excerpts_of_their_text(
    text_spec: ScanSpec, token_lists: list[list[int]], tmp_path: Path, kind: pa.DataType
) -> None:
    job, receipt = score(text_spec, tmp_path / "text")
    spec = with_tokens(text_spec, write_tokens(tmp_path / "tokens", token_lists, kind))
    of_tokens, token_receipt = score(spec, tmp_path / "store")
    assert len(candidates(job)) > 40
    assert candidates(of_tokens) == candidates(job)
    assert (token_receipt.num_tokens, token_receipt.num_rows) == (receipt.num_tokens, receipt.num_rows)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.list_(pa.uint32()), pa.list_(pa.int32(), 5), pa.large_list(pa.int32())], ids=str
)
def test_every_kind_of_list_is_read(text_spec: ScanSpec, tmp_path: Path, kind: pa.DataType) -> None:
    lists = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    spec = with_tokens(text_spec, write_tokens(tmp_path / "tokens", lists, kind))
    assert score(spec, tmp_path / "store")[1].num_targets == 8


@pytest.mark.parametrize("wrong", [300, -1])
def test_an_id_outside_the_vocabulary_is_named_by_shard_and_row_even_where_bad_rows_are_skipped(
    text_spec: ScanSpec, tmp_path: Path, wrong: int
) -> None:
    lists = [[1, 2, 3]] * 12 + [[1, wrong, 3]]
    corpus = write_tokens(tmp_path / "tokens", lists, pa.list_(pa.int32()))
    with pytest.raises(InputError, match=rf"shard\.parquet: row 12: token id {wrong} is outside .* vocabulary of 300"):
        score(with_tokens(text_spec, corpus, on_bad_row="skip"), tmp_path / "store")


BAD_LISTS = [[1, 2, 3], None, [], [4, None, 5], [6, 7]]


def test_null_lists_empty_lists_and_null_tokens_are_skipped_and_named(text_spec: ScanSpec, tmp_path: Path) -> None:
    corpus = write_tokens(tmp_path / "tokens", BAD_LISTS, pa.list_(pa.int32()))
    _, receipt = score(with_tokens(text_spec, corpus, on_bad_row="skip"), tmp_path / "store")
    assert [(row, reason) for _, row, reason in receipt.skipped] == [
        (1, "the list of tokens is null"),
        (2, "the list of tokens is empty"),
        (3, "a token is null"),
    ]
    assert (receipt.num_rows, receipt.num_targets) == (5, 3)


def test_a_bad_list_stops_the_run_unless_the_config_says_otherwise(text_spec: ScanSpec, tmp_path: Path) -> None:
    corpus = write_tokens(tmp_path / "tokens", BAD_LISTS, pa.list_(pa.int32()))
    with pytest.raises(InputError, match=r"row 1: the list of tokens is null \(column 'ids'\)"):
        score(with_tokens(text_spec, corpus), tmp_path / "store")


def test_a_column_without_token_ids_and_two_columns_at_once_are_refused(text_spec: ScanSpec, tmp_path: Path) -> None:
    corpus = write_tokens(tmp_path / "tokens", [["a"]], pa.list_(pa.string()))
    with pytest.raises(InputError, match=r"column 'ids' holds list<.*string>, not lists of token ids"):
        find_inputs(with_tokens(text_spec, corpus), scan_example.run_options("unused"))
    missing = dataclasses.replace(text_spec, corpus=CorpusSpec(path=corpus, tokens_column="tokens"))
    with pytest.raises(InputError, match=r"no column 'tokens' \(corpus\.tokens_column\)"):
        find_inputs(missing, scan_example.run_options("unused"))
    with pytest.raises(InputError, match="give one of the two"):
        CorpusSpec(path=corpus, text_column="body", tokens_column="ids")


def test_the_checks_and_the_curvature_read_tokens_too(
    text_spec: ScanSpec, token_lists: list[list[int]], tmp_path: Path
) -> None:
    update = dataclasses.replace(text_spec.update, kind="diagonal", difference="auto")
    lists = write_tokens(tmp_path / "tokens", token_lists, pa.list_(pa.int32()))
    checks, samples = [], []
    for spec in (text_spec, with_tokens(text_spec, lists)):
        spec = dataclasses.replace(spec, update=update)
        job = resolve_inputs(spec, scan_example.run_options(str(tmp_path / spec.corpus.content[0])))
        scorer, unit = ShardScorer(job), next(planned_units(job))
        checks.append(dataclasses.replace(scorer.check_model(unit), seconds=0.0))
        samples.append(scorer.fit_curvature(job).num_tokens)
        scorer.check_precision(unit)
    assert checks[0] == checks[1]
    assert samples[0] == samples[1] > 0
