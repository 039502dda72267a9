"""The rows that a first pass keeps, as lines of candidates.parquet: each query's, once each, with their units."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import scan_example

from finf_core.spec import RankSpec, StrategySpec
from finf_core.top_k import CANDIDATES, merge_top
from tasks import corpus as corpus_module
from tasks import storage
from tasks.bundles import Line, kept_bundles
from tasks.job import ScanJob
from tasks.keep_rows import publish_candidates, unit_of_line
from tasks.queries import Query, read_queries
from tasks.rankers import group_columns
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import planned_units

NUM_QUERIES = 7


@pytest.fixture(params=["one_pass", "grouped"])
def job(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScanJob:
    """A corpus whose shards are cut into several units; as groups, each query is in two of them."""
    monkeypatch.setattr(corpus_module, "UNIT_ROWS", 1)
    pattern = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.corpus_texts(), num_shards=3)
    pairs = [("", text) for text in scan_example.texts(NUM_QUERIES, seed=1)]
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"), pairs)
    spec = scan_example.scan_spec(tiny_checkpoint, pattern, queries, kind="sgd")
    strategy = StrategySpec(kind=request.param, group_size=3, num_groupings=2)
    return dataclasses.replace(
        resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store"))), strategy=strategy
    )


def kept_rows(job: ScanJob, columns: Sequence[str], num_kept: int) -> pa.Table:
    """Some rows for each column, as `merge_top` gives them; none for the last one."""
    draw, lines = random.Random(0), list[Line]()
    rows = [
        (unit.shard, row)
        for unit in planned_units(job)
        for row in range(unit.first_row, unit.first_row + unit.num_rows)
    ]
    for column in columns[:-1]:
        for shard, row in draw.sample(rows, num_kept):
            mean = (row + 1) / 100  # of the row, so that both groups of a query say the same
            lines.append(
                {"query_id": column, "shard": shard, "row": row, "row_ratio": draw.random(), "others_mean": mean}
            )
    return merge_top([pa.Table.from_pylist(lines, CANDIDATES)], RankSpec(top_k=max(1, num_kept)))


def by_hand(job: ScanJob, best: pa.Table, queries: Sequence[Query]) -> list[Line]:
    """One line after the other."""
    lines = {}
    for line in best.to_pylist():
        for query in group_columns(job, queries)[line["query_id"]]:
            [unit] = [
                unit
                for unit in planned_units(job)
                if unit.shard == line["shard"] and unit.first_row <= line["row"] < unit.first_row + unit.num_rows
            ]
            kept = {name: line[name] for name in ("shard", "row", "others_mean", "others_spread")}
            key = query.query_id, line["shard"], line["row"]
            lines[key] = {"query_id": query.query_id} | kept | dataclasses.asdict(unit)
    return [lines[key] for key in sorted(lines)]


@pytest.mark.parametrize("num_kept", [0, 1, 20])
def test_each_query_has_its_rows_once_with_the_unit_that_holds_them(job: ScanJob, num_kept: int) -> None:
    queries = read_queries(job.queries_uri)
    columns = group_columns(job, queries)
    best = kept_rows(job, list(columns), num_kept)
    publish_candidates(job, columns, best)
    found = storage.read_table(job.candidates_uri).to_pylist()
    assert len(list(planned_units(job))) > 3
    assert found == by_hand(job, best, queries)
    units = set(planned_units(job))
    for query_id, lines in kept_bundles(job).lines([query.query_id for query in queries[:3]]).items():
        assert lines == [line for line in found if line["query_id"] == query_id]
        assert {unit_of_line(line) for line in lines} <= units
