"""The results of many units, merged from their objects: the same whatever the order and the grouping."""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from arrow_peak import arrow_peak_bytes

from finf_core.errors import InputError
from finf_core.ratio_histogram import NUM_BINS
from finf_core.spec import RankSpec
from finf_core.top_k import CANDIDATES, merge_top
from tasks import merge_units as module
from tasks.merge_units import MergedUnits, merge_units
from tasks.unit_result import UnitReceipt, publish_unit, read_unit_result

QUERY_IDS = ["q-b", "q-a", "q-c"]  # the order of the run, not of the alphabet
RANK = RankSpec(top_k=3, by="row_ratio")
NUM_UNITS = 40


def publish(folder: Path, number: int) -> str:
    """A unit of its own shard: few values, so that ties are common; some units have no candidate, some bad rows."""
    draw = random.Random(number)
    keys = [(query, row) for query in QUERY_IDS for row in range(draw.randrange(4))] if number % 7 else []
    columns = {name: [draw.choice([0.0, 0.1, 0.1, 0.4]) for _ in keys] for name in CANDIDATES.names}
    columns |= {"query_id": [query for query, _ in keys], "row": [row for _, row in keys]}
    columns |= {"shard": [f"shard-{number}"] * len(keys), "num_targets": [5] * len(keys)}
    columns |= {"document_id": [f"document-{row}" for _, row in keys], "text_excerpt": [None] * len(keys)}
    counts_QK = np.random.default_rng(number).integers(0, 9, (len(QUERY_IDS), NUM_BINS + 2))
    skipped = tuple((f"shard-{number}", row, "text is null") for row in range(number % 3))
    receipt = UnitReceipt(4 + number, 100, 90, 0.25, skipped)
    uri = str(folder / f"{number}.parquet")
    publish_unit(uri, QUERY_IDS, pa.table(columns, schema=CANDIDATES), counts_QK, receipt)
    return uri


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("units")
    return [publish(folder, number) for number in range(NUM_UNITS)]


def merge(uris: Sequence[str], max_skipped: int = 100) -> MergedUnits:
    return merge_units(uris, len(QUERY_IDS), RANK, max_skipped)


def test_units_merged_together_equal_units_merged_one_after_the_other(uris: list[str]) -> None:
    best, counts_QK, receipts = CANDIDATES.empty_table(), 0, []
    for uri in uris:
        candidates, unit_counts_QK, receipt = read_unit_result(uri)
        best = merge_top([best, candidates], RANK)
        counts_QK = counts_QK + unit_counts_QK
        receipts.append(receipt)
    found = merge(uris)
    assert len(found.best) > 0
    assert found.best.equals(best)
    np.testing.assert_array_equal(found.counts_QK, counts_QK)
    assert found.receipt == UnitReceipt.total(receipts, sum(receipt.seconds for receipt in receipts))
    assert found.num_skipped == len(found.receipt.skipped) == sum(number % 3 for number in range(NUM_UNITS))


@pytest.mark.parametrize(("group_units", "group_bytes"), [(1, 1 << 20), (7, 1 << 20), (256, 3000), (256, 0)])
def test_neither_grouping_nor_order_changes_the_result(
    uris: list[str], monkeypatch: pytest.MonkeyPatch, group_units: int, group_bytes: int
) -> None:
    wanted = merge(uris)
    monkeypatch.setattr(module, "GROUP_UNITS", group_units)
    monkeypatch.setattr(module, "GROUP_BYTES", group_bytes)
    shuffled = random.Random(group_units + group_bytes).sample(uris, len(uris))
    found, in_order = merge(shuffled), merge(uris)
    for merged in (found, in_order):
        assert merged.best.equals(wanted.best)
        np.testing.assert_array_equal(merged.counts_QK, wanted.counts_QK)
        assert merged.num_skipped == wanted.num_skipped == 39
    assert in_order.receipt == wanted.receipt
    assert dataclasses.replace(found.receipt, skipped=()) == dataclasses.replace(wanted.receipt, skipped=())


def test_all_skipped_rows_are_counted_and_the_first_ones_named(uris: list[str]) -> None:
    found = merge(uris, max_skipped=4)
    assert found.num_skipped == 39
    assert [(shard, row) for shard, row, _ in found.receipt.skipped] == [
        ("shard-1", 0),
        ("shard-2", 0),
        ("shard-2", 1),
        ("shard-4", 0),
    ]


def test_a_stream_of_units_is_pulled_only_a_little_ahead(uris: list[str], tmp_path: Path) -> None:
    pulled = 0

    def stream() -> Iterator[str]:
        nonlocal pulled
        for uri in [*uris[:5], str(tmp_path / "lost.parquet")] + uris[:5] * 100:
            pulled += 1
            yield uri

    with pytest.raises(InputError, match=r"lost\.parquet does not exist"):
        merge_units(stream(), 10_000, RankSpec(top_k=100), 0)  # units so large that two at a time are enough
    assert pulled <= 5 + 1 + 2


def test_no_units_are_an_empty_result() -> None:
    found = merge([])
    assert (len(found.best), found.best.schema) == (0, CANDIDATES)
    assert found.counts_QK.shape == (len(QUERY_IDS), NUM_BINS + 2)
    assert found.receipt == UnitReceipt(0, 0, 0, 0.0)


@pytest.fixture
def large_unit(tmp_path: Path) -> str:
    """A unit whose candidates are nearly all of it: 100 rows for each query, with long excerpts."""
    num = 100 * len(QUERY_IDS)
    columns = {name: np.random.default_rng(0).normal(size=num) for name in CANDIDATES.names}
    columns |= {"query_id": QUERY_IDS * 100, "row": np.arange(num), "num_targets": [5] * num}
    columns |= {name: [f"{name} {row}" for row in range(num)] for name in ("shard", "document_id")}
    columns |= {"text_excerpt": [f"{row}" * 200 for row in range(num)]}
    counts_QK = np.ones((len(QUERY_IDS), NUM_BINS + 2), np.int64)
    uri = str(tmp_path / "large.parquet")
    publish_unit(uri, QUERY_IDS, pa.table(columns, schema=CANDIDATES), counts_QK, UnitReceipt(100, 1, 1, 0.0))
    return uri


def peak_bytes(uris: Sequence[str], rank: RankSpec | None = RANK) -> int:
    return arrow_peak_bytes(lambda: merge_units(uris, len(QUERY_IDS), rank, 0))


def test_more_units_take_no_more_memory(large_unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_BYTES", 1 << 20)
    monkeypatch.setattr(module, "AHEAD_BYTES", 1 << 20)
    rank = RankSpec(top_k=100)
    assert peak_bytes([large_unit] * 160, rank) < 1.3 * peak_bytes([large_unit] * 20, rank)


def test_where_only_histograms_are_wanted_candidates_are_not_read(large_unit: str, uris: list[str]) -> None:
    assert peak_bytes([large_unit] * 20, rank=None) < 0.2 * peak_bytes([large_unit] * 20)
    found, wanted = merge_units(uris, len(QUERY_IDS), None, 100), merge(uris)
    assert (len(found.best), found.best.schema) == (0, CANDIDATES)
    np.testing.assert_array_equal(found.counts_QK, wanted.counts_QK)
    assert (found.receipt, found.num_skipped) == (wanted.receipt, wanted.num_skipped)
