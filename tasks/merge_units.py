"""Merge the results of many units: a stream of objects in, a memory that queries and top_k decide, not the corpus.

Several units are read at once, and merged by the hundred: what a small one costs is mostly the number of calls, and
the best rows so far are sorted again only when about as many new ones have come. Merging is associative: neither the
order of the units nor how they are grouped changes the result.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.ratio_histogram import NUM_BINS
from finf_core.scores import Ints
from finf_core.spec import RankSpec
from finf_core.top_k import CANDIDATES, in_order, keep_best
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import UNIT_ROWS
from tasks.unit_result import CANDIDATES_TOO, HISTOGRAMS, UnitReceipt, join_unit_results

READERS = 16  # most of their time is spent waiting for the store
AHEAD_BYTES = 32 << 20  # at most, of units that are being read or wait for their merge
CANDIDATE_BYTES, BIN_BYTES = 512, 8  # in memory, about; half of the first is an excerpt
GROUP_UNITS, GROUP_BYTES = 256, 4 << 20  # one of them full: merge the group


@dataclass(frozen=True)
class MergedUnits:
    best: pa.Table  # `CANDIDATES`, as `merge_top` orders them
    counts_QK: Ints  # (Q, K) histogram counts of all rows
    receipt: UnitReceipt  # of all units together; `seconds` of all actors
    num_skipped: int  # `receipt.skipped` names the first of them only


def merge_units(
    units: Iterable[Any],
    num_queries: int,
    rank: RankSpec | None,
    max_skipped: int,
    read: Callable[[Any, Sequence[str]], pa.Table] = storage.read_table,
) -> MergedUnits:
    """Read and merge the objects of `tasks.unit_result.publish_unit`, all of the same queries in the same order.

    Args:
        units: a stream of URIs, or of what `read` takes; pulled a little ahead of the merging.
        rank: None: only histograms and receipts are wanted, so candidates are not even read.
        max_skipped: skipped rows to name; all are counted.
        read: these columns of a unit.
    """
    nothing = UnitReceipt(0, 0, 0, 0.0)
    merged = MergedUnits(CANDIDATES.empty_table(), np.zeros((num_queries, NUM_BINS + 2), np.int64), nothing, 0)
    num_ahead = min(GROUP_UNITS, max(2, AHEAD_BYTES // max(1, _most_bytes(num_queries, rank))))
    columns = HISTOGRAMS if rank is None else CANDIDATES_TOO
    group: list[pa.Table] = []
    group_bytes = 0
    for table in bounded_map(lambda unit: read(unit, columns), units, min(READERS, num_ahead), num_ahead):
        group.append(table)
        group_bytes += table.nbytes
        if len(group) == GROUP_UNITS or group_bytes > max(GROUP_BYTES, merged.best.nbytes):
            merged, group, group_bytes = _merge_group(merged, group, rank, max_skipped), [], 0
    merged = _merge_group(merged, group, rank, max_skipped) if group else merged
    del group
    merged = merged if rank is None else replace(merged, best=in_order(merged.best, rank))
    pa.default_memory_pool().release_unused()  # what the readers' threads leave behind
    return merged


def _most_bytes(num_queries: int, rank: RankSpec | None) -> int:
    """Of a unit of `UNIT_ROWS` rows."""
    num_candidates = 0 if rank is None else min(UNIT_ROWS, rank.top_k + rank.num_by_ratio)
    return num_queries * (num_candidates * CANDIDATE_BYTES + NUM_BINS * BIN_BYTES)


def _merge_group(
    merged: MergedUnits, group: Sequence[pa.Table], rank: RankSpec | None, max_skipped: int
) -> MergedUnits:
    found = join_unit_results(group)
    receipts = [merged.receipt, *found.receipts]
    total = UnitReceipt.total(receipts, sum(receipt.seconds for receipt in receipts))
    return MergedUnits(
        best=merged.best if rank is None else keep_best([merged.best, found.candidates], rank),
        counts_QK=merged.counts_QK + found.counts_QK,
        receipt=replace(total, skipped=total.skipped[:max_skipped]),
        num_skipped=merged.num_skipped + sum(len(receipt.skipped) for receipt in found.receipts),
    )
