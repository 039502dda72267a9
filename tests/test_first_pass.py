"""A first pass and then single queries, against every query on every row: `tasks.rankers`, `tasks.rescore`."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import scan_example
from test_shard_scorer import score_everything

from finf_core.errors import StorageError
from finf_core.scores import SPREAD_FLOOR
from finf_core.spec import ScanSpec, StrategySpec
from finf_core.top_k import CANDIDATES
from tasks import storage
from tasks.aggregate import aggregate
from tasks.bundles import kept_bundles
from tasks.choose_strategy import read_strategy
from tasks.job import ScanJob
from tasks.keep_rows import publish_candidates
from tasks.resolve_inputs import resolve_inputs
from tasks.run_status import run_status
from tasks.score_shards import planned_units
from tasks.shard_scorer import ShardScorer
from tasks.unit_result import read_unit_result

NUM_ROWS, NUM_QUERIES = 96, 12
SCORES = ["score", "mirror_ratio", "row_ratio", "base_nats"]


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    """Twelve queries, a leaked one and eleven clean ones, on a corpus in three shards."""
    folder = tmp_path_factory.mktemp("inputs")
    corpus = scan_example.write_shards(str(folder / "corpus"), scan_example.corpus_texts(), num_shards=3)
    clean = [("question: ", text) for text in scan_example.texts(NUM_QUERIES - 1, seed=1)]
    queries = scan_example.write_queries(str(folder / "queries.parquet"), [("", scan_example.LEAK), *clean])
    return scan_example.scan_spec(tiny_checkpoint, corpus, queries)


def run(spec: ScanSpec, store: Path, **strategy: Any) -> ScanJob:
    return score_everything(dataclasses.replace(spec, strategy=StrategySpec(**strategy)), store)


def lines(job: ScanJob) -> dict[tuple[str, str], dict[str, Any]]:
    top = storage.read_table(job.file("top.parquet")).to_pylist()
    return {(line["query_id"], line["document_id"]): line for line in top}


def assert_same_scores(found: dict[Any, dict[str, Any]], wanted: dict[Any, dict[str, Any]]) -> None:
    for key, line in found.items():
        for name in SCORES:
            assert line[name] == pytest.approx(wanted[key][name], abs=2e-3), (key, name)


@pytest.fixture(scope="module")
def every_row(spec: ScanSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Every query on every row, all of them listed."""
    listed = dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, top_k=NUM_ROWS))
    return lines(run(listed, tmp_path_factory.mktemp("every"), kind="every_query"))


@pytest.mark.parametrize("kind", ["one_pass", "grouped"])
def test_when_all_rows_are_kept_nothing_differs_from_every_query_on_every_row(
    spec: ScanSpec, every_row: Any, tmp_path: Path, kind: str
) -> None:
    listed = dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, top_k=NUM_ROWS))
    found = lines(run(listed, tmp_path, kind=kind, rescored_rows=NUM_ROWS, rank=1000, blocks=2))
    assert found.keys() == every_row.keys()
    assert len(found) == NUM_ROWS * NUM_QUERIES
    assert_same_scores(found, every_row)
    if kind == "grouped":  # a group's pass knows no single query's ratio
        assert {(line["others_mean"], line["control_z"]) for line in found.values()} == {(None, None)}
    else:
        gaps = [abs(found[key]["others_mean"] - every_row[key]["others_mean"]) for key in found]
        assert max(gaps) < 0.05  # first order against a move of 0.1 nats


@pytest.mark.parametrize(("kind", "options"), [("one_pass", {"rank": 8}), ("grouped", {"group_size": 3})])
def test_a_few_rows_are_kept_the_copy_among_them_and_scored_as_ever(
    spec: ScanSpec, every_row: Any, tmp_path: Path, kind: str, options: dict[str, int]
) -> None:
    without_words = dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, lexical_k=0))
    job = run(without_words, tmp_path, kind=kind, rescored_rows=4, **options)
    found = lines(job)
    per_query = len(found) / NUM_QUERIES
    assert 4 <= per_query <= 5  # and one by the best block or span
    assert_same_scores(found, every_row)
    first = storage.read_table(job.file("top.parquet")).slice(0, 1).to_pylist()[0]
    assert (first["query_id"], first["document_id"]) == ("0", "doc-37")
    assert first["mirror_ratio"] == pytest.approx(1.0, abs=0.02)
    verdicts = storage.read_table(job.file("queries.parquet")).to_pylist()
    assert [verdict["leaked"] for verdict in verdicts] == [True] + [False] * (NUM_QUERIES - 1)
    assert {sum(verdict["ratio_counts"]) for verdict in verdicts} == {NUM_ROWS}  # the first pass saw every row, once


def test_the_copy_stands_near_one_in_the_first_pass_s_histogram_too(spec: ScanSpec, tmp_path: Path) -> None:
    for kind in ("one_pass", "grouped"):
        job = run(spec, tmp_path / kind, kind=kind, rescored_rows=4, group_size=1, rank=1000, blocks=2)
        counts = storage.read_table(job.file("queries.parquet")).to_pylist()[0]["ratio_counts"]
        assert sum(counts[-61:]) == 1, kind  # from 0.9 on: the copy alone


def test_by_default_no_fewer_rows_are_kept_than_are_to_be_listed(spec: ScanSpec, tmp_path: Path) -> None:
    listed = dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, top_k=30))
    found = lines(run(listed, tmp_path, kind="one_pass"))
    assert min(sum(key[0] == str(query) for key in found) for query in range(NUM_QUERIES)) >= 30


@pytest.mark.parametrize("kind", ["one_pass", "grouped"])
def test_a_first_pass_publishes_no_texts_and_the_rows_that_are_listed_have_theirs(
    spec: ScanSpec, tmp_path: Path, kind: str
) -> None:
    job = run(spec, tmp_path, kind=kind, rescored_rows=2)
    for unit in planned_units(job):
        candidates, _, _ = read_unit_result(job.score_uri(unit))
        assert len(candidates) > 0
        assert candidates["text_excerpt"].null_count == len(candidates)
    assert all(line["text_excerpt"] for line in lines(job).values())


def test_no_kept_row_at_all_is_an_empty_result_and_no_error(spec: ScanSpec, tmp_path: Path) -> None:
    job = run(spec, tmp_path, kind="one_pass", rescored_rows=2)
    table = storage.read_table(job.candidates_uri)
    publish_candidates(job, {}, CANDIDATES.empty_table())
    assert storage.read_table(job.candidates_uri).schema == table.schema
    scorer = ShardScorer(job)
    for bundle in kept_bundles(job).planned():
        scorer.rescore(bundle)
    aggregate(job)
    assert lines(job) == {}
    assert not any(storage.read_table(job.file("queries.parquet"))["leaked"].to_pylist())


def test_rows_that_were_replaced_while_they_are_scored_are_not_published(spec: ScanSpec, tmp_path: Path) -> None:
    job = run(spec, tmp_path, kind="one_pass", rescored_rows=2)
    stale, *_ = kept_bundles(job).planned()
    storage.publish_table(job.candidates_uri, storage.read_table(job.candidates_uri).slice(1))
    with pytest.raises(StorageError, match="was replaced"):
        ShardScorer(job).rescore(stale)


def test_other_batches_keep_the_same_rows(spec: ScanSpec, tmp_path: Path) -> None:
    strategy = StrategySpec(kind="one_pass", rescored_rows=3)
    jobs = [
        score_everything(dataclasses.replace(spec, strategy=strategy), tmp_path / str(size), batch_tokens=size)
        for size in (60, 4096)
    ]
    assert lines(jobs[0]).keys() == lines(jobs[1]).keys()


def test_control_z_is_taken_against_the_ratios_that_the_first_pass_saw(spec: ScanSpec, tmp_path: Path) -> None:
    by_z = dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, by="control_z"))
    found = lines(run(by_z, tmp_path, kind="one_pass", rescored_rows=4))
    for line in found.values():
        spread = (line["others_spread"] ** 2 + SPREAD_FLOOR**2) ** 0.5
        assert line["control_z"] == pytest.approx((line["row_ratio"] - line["others_mean"]) / spread, rel=1e-9)
    ranked = [line["control_z"] for (query_id, _), line in found.items() if query_id == "0"]
    assert ranked[0] == max(ranked)
    assert found["0", "doc-37"]["rank"] == 1


def test_many_queries_take_one_pass_by_themselves_and_few_do_not(spec: ScanSpec, tmp_path: Path) -> None:
    many = run(spec, tmp_path, rescored_rows=1)
    chosen = read_strategy(many)
    assert chosen.kind == "one_pass"
    cost_of = {cost.kind: cost for cost in chosen.costs}
    assert cost_of["every_query"].first_pass == 1 + NUM_QUERIES
    assert 1.3 < cost_of["one_pass"].first_pass < 4
    few = dataclasses.replace(spec, queries=dataclasses.replace(spec.queries, limit=1))
    assert read_strategy(run(few, tmp_path)).kind == "every_query"


def test_queries_that_move_the_last_block_cost_less_than_a_pass_each(spec: ScanSpec, tmp_path: Path) -> None:
    first_passes = []
    for moves in ("all", "last:1"):
        update = dataclasses.replace(spec.update, moves=moves)
        job = run(dataclasses.replace(spec, update=update), tmp_path / moves, kind="every_query")
        first_passes.append(next(cost.first_pass for cost in read_strategy(job).costs if cost.kind == "every_query"))
    assert first_passes[0] == pytest.approx(1 + NUM_QUERIES)
    assert 1 + 0.2 * NUM_QUERIES < first_passes[1] < 1 + 0.9 * NUM_QUERIES  # one of two blocks, and the head


def test_an_update_that_moves_all_parameters_is_scored_on_every_row(spec: ScanSpec, tmp_path: Path) -> None:
    job = resolve_inputs(
        dataclasses.replace(spec, update=dataclasses.replace(spec.update, kind="sgd")),
        scan_example.run_options(str(tmp_path)),
    )
    scorer = ShardScorer(job)
    unit = next(planned_units(job))
    scorer.check_precision(unit)
    chosen = scorer.choose_strategy(unit)
    assert chosen.kind == "every_query"
    assert "embed_tokens" in chosen.reason


def test_only_bundles_that_are_missing_are_scored_again(spec: ScanSpec, tmp_path: Path) -> None:
    job = run(spec, tmp_path, kind="one_pass", rescored_rows=2)
    assert kept_bundles(job).are_done()
    first, *_ = bundles = list(kept_bundles(job).planned())
    assert [query_id for bundle in bundles for query_id in bundle.query_ids] == sorted(map(str, range(NUM_QUERIES)))
    Path(kept_bundles(job).uri(first)).unlink()
    assert kept_bundles(job).pending() == [first]
    status = run_status(job.run_uri)
    assert (status.rows_scored, status.queries_rescored) == (NUM_ROWS, NUM_QUERIES - len(first.query_ids))
    assert not kept_bundles(job).are_done()


def test_other_kept_rows_are_other_bundles(spec: ScanSpec, tmp_path: Path) -> None:
    job = run(spec, tmp_path, kind="one_pass", rescored_rows=2)
    before = list(kept_bundles(job).planned())
    table = storage.read_table(job.candidates_uri)
    storage.publish_table(job.candidates_uri, table.slice(1))
    after = list(kept_bundles(job).planned())
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_strategies_do_not_share_scores(spec: ScanSpec, tmp_path: Path) -> None:
    jobs = [resolve_inputs(spec, scan_example.run_options(str(tmp_path)))]
    for kind in ("every_query", "one_pass", "grouped"):
        jobs.append(dataclasses.replace(jobs[0], strategy=StrategySpec(kind=kind)))  # type: ignore[arg-type]
    fingerprints = [job.scores_fingerprint for job in jobs]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3
