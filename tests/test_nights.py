"""A corpus that grows every night: only what is new is scored, and the result is that of one full run."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import scan_example
from test_scan import finished_units

from benchmarks.many_queries import run_strategy
from finf_core.spec import ScanSpec, StrategySpec
from tasks import corpus as corpus_module
from tasks import storage
from tasks.curvature_store import is_complete
from tasks.filesystems import locate
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.unit_result import read_unit_result

SHARD_ROWS = 32
UNITS_OF_SHARD = 2
CLEAN = [("question: ", text) for text in scan_example.texts(3, seed=1)]
ASKED, ADDED = [("", scan_example.LEAK), *CLEAN[:2]], CLEAN[2]


class Nights:
    """A corpus whose shards come and go, a file of queries, and a sample of the first night that stays."""

    def __init__(self, folder: str, rows: Sequence[str | None] = scan_example.corpus_texts()) -> None:
        self.folder, self.rows = folder, rows
        scan_example.write_shards(storage.join(folder, "sample"), rows[: 2 * SHARD_ROWS], num_shards=1)

    def add_shard(self, name: str) -> None:
        number = "ABC".index(name)
        rows = self.rows[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
        table = pa.table({"id": [f"{name}-{row}" for row in range(len(rows))], "text": pa.array(rows, pa.string())})
        buffer = pa.BufferOutputStream()
        pa.parquet.write_table(table, buffer, row_group_size=8)
        storage.publish_bytes(self.shard(name), buffer.getvalue().to_pybytes())

    def remove_shard(self, name: str) -> None:
        filesystem, path = locate(self.shard(name))
        filesystem.rm_file(path)

    def ask(self, items: Sequence[tuple[str, str]]) -> None:
        scan_example.write_queries(storage.join(self.folder, "queries.parquet"), items)

    def shard(self, name: str) -> str:
        return storage.join(self.folder, "corpus", f"{name}.parquet")


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.setattr(corpus_module, "UNIT_ROWS", SHARD_ROWS // UNITS_OF_SHARD)
    return Nights(str(tmp_path))


@pytest.fixture
def spec(tiny_checkpoint: Path, tmp_path: Path) -> ScanSpec:
    plain = scan_example.scan_spec(tiny_checkpoint, str(tmp_path / "corpus"), str(tmp_path / "queries.parquet"))
    corpus = dataclasses.replace(plain.corpus, sample=str(tmp_path / "sample"))
    return dataclasses.replace(plain, corpus=corpus, strategy=StrategySpec(kind="every_query"))


def new_units(store: Path | str, scan: Callable[[], Any]) -> list[tuple[str, int]]:
    """Shard and number of queries of each unit object that a scan writes; none that was there may be written again."""
    before = finished_units(str(store))
    scan()
    after = finished_units(str(store))
    assert {uri: after[uri] for uri in before} == before
    return sorted(map(shard_and_queries, after.keys() - before.keys()))


def shard_and_queries(uri: str) -> tuple[str, int]:
    candidates, counts_QK, _ = read_unit_result(uri)
    [shard] = set(candidates["shard"].to_pylist())
    return Path(shard).stem, len(counts_QK)


def of_shards(names: str, num_queries: int) -> list[tuple[str, int]]:
    return sorted((name, num_queries) for name in names for _ in range(UNITS_OF_SHARD))


def assert_same_result(found: ScanJob, wanted: ScanJob) -> None:
    """Every row, score and verdict, bit by bit; and what was counted."""
    for name in ("top.parquet", "queries.parquet"):
        assert storage.read_table(found.file(name)).to_pylist() == storage.read_table(wanted.file(name)).to_pylist()
    totals = [json.loads(storage.read_bytes(job.totals_uri)) for job in (found, wanted)]
    assert totals[0] | {"actor_seconds": 0} == totals[1] | {"actor_seconds": 0}


@pytest.mark.parametrize(
    ("by", "kind", "third_night"),
    [
        ("row_ratio", "every_query", of_shards("BC", 1)),  # the new query alone
        ("mirror_ratio", "every_query", of_shards("BC", 1)),
        ("control_z", "every_query", of_shards("BC", 4)),  # there a row is kept for what it is to all queries
        ("row_ratio", "one_pass", of_shards("BC", 4)),  # one pass costs the same for one query as for all
    ],
)
def test_three_nights_score_what_is_new_and_end_as_one_full_run(
    nights: Nights, spec: ScanSpec, tmp_path: Path, by: str, kind: str, third_night: list[tuple[str, int]]
) -> None:
    strategy = StrategySpec(kind=kind, rescored_rows=12)  # type: ignore[arg-type]
    rank = dataclasses.replace(spec.rank, by=by)
    spec, store = dataclasses.replace(spec, strategy=strategy, rank=rank), tmp_path / "store"
    jobs = []

    def scan() -> None:
        jobs.append(run_strategy(spec, str(store))[0])

    nights.add_shard("A")
    nights.add_shard("B")
    nights.ask(ASKED)
    assert new_units(store, scan) == of_shards("AB", 3)
    nights.add_shard("C")
    assert new_units(store, scan) == of_shards("C", 3)
    nights.remove_shard("A")
    nights.ask([ADDED, *ASKED])  # so that the old ones get other ids
    assert new_units(store, scan) == third_night
    assert len({job.curvature_uri for job in jobs}) == len({job.updates_uri for job in jobs}) == 1
    full, _ = run_strategy(spec, str(tmp_path / "full"))
    assert_same_result(jobs[-1], full)
    assert {row["shard"] for row in top(full)} == {nights.shard("B"), nights.shard("C")}
    assert all(row["control_z"] is not None for row in top(full))
    assert new_units(store, scan) == []


def top(job: ScanJob) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = storage.read_table(job.file("top.parquet")).to_pylist()
    return rows


OTHERS = ("control_z", "others_mean", "others_spread")


def test_ratios_read_from_the_store_say_of_a_row_what_its_own_unit_says(
    nights: Nights, spec: ScanSpec, tmp_path: Path
) -> None:
    """Of a run that is a single set, where the unit knew the row's ratios for all queries."""
    nights.add_shard("A")
    nights.add_shard("C")
    nights.ask(ASKED)
    job, _ = run_strategy(spec, str(tmp_path / "store"))
    wanted = {}
    for uri in finished_units(str(tmp_path / "store")):
        for line in read_unit_result(uri)[0].to_pylist():
            wanted[line["query_id"], line["shard"], line["row"]] = [line[name] for name in OTHERS]
    digest_of = {query.query_id: query.digest for query in read_queries(job.queries_uri)}
    found = {(digest_of[row["query_id"]], row["shard"], row["row"]): [row[name] for name in OTHERS] for row in top(job)}
    assert len({row for _, _, row in found}) > SHARD_ROWS // 2  # of both units of a shard
    assert found == {key: wanted[key] for key in found}


def test_queries_that_are_no_longer_asked_or_asked_twice_cost_nothing(
    nights: Nights, spec: ScanSpec, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    nights.add_shard("B")
    nights.ask([*ASKED, ADDED])
    run_strategy(spec, str(store))
    nights.ask([ASKED[2], ASKED[0], ASKED[2]])
    jobs = []
    assert new_units(store, lambda: jobs.append(run_strategy(spec, str(store))[0])) == []
    assert_same_result(jobs[0], run_strategy(spec, str(tmp_path / "full"))[0])
    nights.add_shard("C")
    assert new_units(store, lambda: run_strategy(spec, str(store))) == of_shards("C", 2)


def test_a_new_shard_is_scored_once_however_many_sets_there_are(nights: Nights, spec: ScanSpec, tmp_path: Path) -> None:
    store = tmp_path / "store"
    nights.add_shard("A")
    for num_asked in (1, 2, 3):
        nights.ask(ASKED[:num_asked])
        assert new_units(store, lambda: run_strategy(spec, str(store))) == of_shards("A", 1)
    nights.add_shard("B")
    jobs = []
    assert new_units(store, lambda: jobs.append(run_strategy(spec, str(store))[0])) == of_shards("B", 3)
    assert_same_result(jobs[0], run_strategy(spec, str(tmp_path / "full"))[0])


def test_a_row_that_is_skipped_is_counted_once_however_many_sets_there_are(
    spec: ScanSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "UNIT_ROWS", SHARD_ROWS // UNITS_OF_SHARD)
    rows: list[str | None] = [*scan_example.corpus_texts()]
    rows[3] = rows[20] = None
    nights = Nights(str(tmp_path), rows)
    spec = dataclasses.replace(spec, corpus=dataclasses.replace(spec.corpus, on_bad_row="skip"))
    nights.add_shard("A")
    for asked in (ASKED, [*ASKED, ADDED]):
        nights.ask(asked)
        job, _ = run_strategy(spec, str(tmp_path / "store"))
    assert json.loads(storage.read_bytes(job.totals_uri))["num_skipped_rows"] == 2
    assert_same_result(job, run_strategy(spec, str(tmp_path / "full"))[0])


def test_a_unit_that_was_lost_is_scored_again_for_the_queries_that_it_held(
    nights: Nights, spec: ScanSpec, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    nights.add_shard("B")
    for asked in (ASKED, [*ASKED, ADDED]):
        nights.ask(asked)
        job, _ = run_strategy(spec, str(store))
    wanted = top(job)
    lost = next(uri for uri in finished_units(str(store)) if shard_and_queries(uri) == ("B", 3))
    Path(lost).unlink()
    assert new_units(store, lambda: run_strategy(spec, str(store))) == [("B", 3)]
    assert top(job) == wanted


def test_a_sample_may_be_named_after_the_first_night(nights: Nights, spec: ScanSpec, tmp_path: Path) -> None:
    """The same shards, named, are the same curvature as the corpus that they were."""
    nights.add_shard("A")
    nights.ask(ASKED)
    unnamed = dataclasses.replace(spec, corpus=dataclasses.replace(spec.corpus, sample=None))
    store = tmp_path / "store"
    first, _ = run_strategy(unnamed, str(store))
    nights.add_shard("B")
    named = dataclasses.replace(spec.corpus, sample=nights.shard("A"))
    assert new_units(store, lambda: run_strategy(dataclasses.replace(spec, corpus=named), str(store))) == of_shards(
        "B", 3
    )
    assert is_complete(first.curvature_uri)
    assert len(list((store / "cache").glob("curvature-*"))) == 1


def test_on_s3_a_second_night_scores_what_is_new(s3_bucket: str, spec: ScanSpec) -> None:
    nights, store = Nights(s3_bucket), storage.join(s3_bucket, "store")
    corpus = dataclasses.replace(spec.corpus, path=f"{s3_bucket}/corpus/*.parquet", sample=f"{s3_bucket}/sample")
    queries = dataclasses.replace(spec.queries, path=f"{s3_bucket}/queries.parquet")
    spec = dataclasses.replace(spec, corpus=corpus, queries=queries)
    nights.add_shard("A")
    nights.add_shard("B")
    nights.ask(ASKED)
    assert new_units(store, lambda: run_strategy(spec, store)) == [("A", 3), ("B", 3)]
    nights.add_shard("C")
    nights.remove_shard("A")
    nights.ask([ADDED, *ASKED])
    jobs = []
    assert new_units(store, lambda: jobs.append(run_strategy(spec, store)[0])) == [("B", 1), ("C", 4)]
    assert_same_result(jobs[0], run_strategy(spec, storage.join(s3_bucket, "full"))[0])
