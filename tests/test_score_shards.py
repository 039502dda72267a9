"""What is to be done is told from the store, and a corpus is streamed, however many shards it has."""

from pathlib import Path

import numpy as np
import pytest
import scan_example
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.ratio_histogram import NUM_BINS
from finf_core.spec import CorpusSpec
from finf_core.top_k import CANDIDATES
from tasks import corpus as corpus_module
from tasks import storage
from tasks.corpus import Shard, list_shards, plan_units, shards_from_table, shards_table
from tasks.job import ScanJob
from tasks.quarantine import Quarantine
from tasks.resolve_inputs import digest_shards, resolve_inputs
from tasks.run_status import run_status
from tasks.score_shards import count_rows, is_scored, pending_shares, pending_units, planned_units
from tasks.unit_result import UnitReceipt, publish_unit

words = st.text(max_size=6)
group_rows = st.lists(st.integers(0, 9), max_size=4).map(tuple)
shards = st.lists(st.builds(Shard, words, st.integers(0, 2**50), words, group_rows), min_size=1, max_size=6)


@pytest.fixture
def job(tiny_checkpoint: Path, tmp_path: Path) -> ScanJob:
    pattern = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.corpus_texts(), num_shards=6)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, pattern, queries, kind="sgd")
    return resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))


def publish_nothing(job: ScanJob, unit: corpus_module.Unit) -> None:
    counts_QK = np.zeros((1, NUM_BINS + 2), dtype=np.int64)
    publish_unit(job.score_uri(unit), ["0"], CANDIDATES.empty_table(), counts_QK, UnitReceipt(0, 0, 0, 0.0))


def test_what_is_done_and_what_is_pending_add_up(job: ScanJob) -> None:
    units = list(planned_units(job))
    assert (len(units), count_rows(job), is_scored(job)) == (6, (0, 0, 96, 6), False)
    for unit in units[1:]:
        publish_nothing(job, unit)
    assert pending_units(job) == units[:1]
    assert (count_rows(job), is_scored(job)) == ((80, 0, 96, 6), False)
    status = run_status(job.run_uri)
    assert (status.rows_scored, status.num_rows, status.complete) == (80, 96, False)
    publish_nothing(job, units[0])
    assert pending_units(job) == []
    assert (count_rows(job), is_scored(job)) == ((96, 0, 96, 6), True)


@pytest.mark.parametrize(("looks_after", "left"), [(0.0, [4, 1]), (600.0, [3, 4, 5, 0, 1])])
def test_of_two_processes_each_begins_elsewhere_and_leaves_out_what_the_other_has_done_when_it_looks(
    job: ScanJob, monkeypatch: pytest.MonkeyPatch, looks_after: float, left: list[int]
) -> None:
    monkeypatch.setattr("tasks.score_shards.LOOK_SECONDS", looks_after)
    monkeypatch.setattr("tasks.score_shards.LOOK_SHARE", 1e9)
    units = list(planned_units(job))
    shares = pending_shares(job, begin_at=2)
    assert next(shares).unit == units[2]
    for number in (3, 5, 0):  # the other process
        publish_nothing(job, units[number])
    assert [units.index(share.unit) for share in shares] == left


def test_units_that_were_set_aside_are_neither_pending_nor_scored(job: ScanJob) -> None:
    units = list(planned_units(job))
    Quarantine(job).add(units[1], "it kills", num_units=6)
    assert pending_units(job) == [units[0], *units[2:]]
    assert units[1] not in [share.unit for share in pending_shares(job)]
    assert count_rows(job) == (0, 16, 96, 6)
    assert run_status(job.run_uri).rows_set_aside == 16
    Quarantine(job).release()
    assert pending_units(job) == units


@given(shards)
def test_the_digest_of_the_shards_is_their_fingerprint(found: list[Shard]) -> None:
    assert digest_shards(iter(found)) == fingerprint(found)


@given(shards)
def test_the_record_of_the_corpus_gives_back_its_shards(found: list[Shard]) -> None:
    assert list(shards_from_table(shards_table(found))) == found


def test_the_record_is_read_in_pieces_and_the_units_are_the_same(job: ScanJob, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(planned_units(job))
    monkeypatch.setattr(corpus_module, "TABLE_ROWS", 4)
    assert list(planned_units(job)) == whole
    assert list(plan_units(list_shards(job.spec.corpus))) == whole


def test_shards_are_listed_in_order_and_a_bad_one_among_many_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "FOOTERS_AHEAD", 3)
    pattern = scan_example.write_shards(str(tmp_path), scan_example.corpus_texts(), num_shards=20)
    found = list_shards(CorpusSpec(path=pattern))
    assert [Path(shard.uri).name for shard in found] == [f"shard-{number:03d}.parquet" for number in range(20)]
    assert sum(shard.num_rows for shard in found) == 96
    storage.publish_bytes(str(tmp_path / "shard-007.parquet"), b"PAR1 and no more")
    with pytest.raises(InputError, match=r"shard-007\.parquet: not a readable Parquet file"):
        list_shards(CorpusSpec(path=pattern))
