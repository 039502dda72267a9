"""Merge the units: the best rows of each query, the histogram of all, and the verdicts. Holds no rows of the corpus."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from finf_core.ratio_histogram import NUM_BINS
from finf_core.scores import Ints
from finf_core.top_k import CANDIDATES, merge_top, ranks
from finf_core.verdict import decide
from tasks import storage
from tasks.job import ScanJob
from tasks.queries import Query, queries_from_table
from tasks.score_shards import planned_units
from tasks.unit_result import UnitReceipt, read_unit_result
from tasks.update_store import read_numbers

READERS = 8
NAMED_SKIPPED_ROWS = 1000  # all are counted; this many are named


@dataclass(frozen=True)
class Totals:
    num_shards: int
    num_rows: int
    num_tokens: int
    num_targets: int
    num_skipped_rows: int
    actor_seconds: float
    skipped_rows: tuple[tuple[str, int, str], ...]


def aggregate(job: ScanJob) -> str:
    """Publish top.parquet, queries.parquet and, last, totals.json; returns its URI."""
    queries = queries_from_table(storage.read_table(job.queries_uri))
    best = CANDIDATES.empty_table()
    counts_QK = np.zeros((len(queries), NUM_BINS + 2), dtype=np.int64)
    totals = Totals(0, 0, 0, 0, 0, 0.0, ())
    shards: set[str] = set()
    for unit in planned_units(job):
        table, unit_counts_QK, receipt = read_unit_result(job.score_uri(unit))
        best = merge_top([best, table], job.spec.rank.top_k, job.spec.rank.by)
        counts_QK += unit_counts_QK
        shards.add(unit.shard)
        totals = _add(totals, receipt, len(shards))
    storage.publish_table(job.file("top.parquet"), best.add_column(1, "rank", pa.array(ranks(best["query_id"]))))
    storage.publish_table(job.file("queries.parquet"), _verdicts(job, queries, best, counts_QK))
    storage.publish_bytes(job.totals_uri, json.dumps(asdict(totals)).encode())
    return job.totals_uri


def _add(totals: Totals, receipt: UnitReceipt, num_shards: int) -> Totals:
    return Totals(
        num_shards=num_shards,
        num_rows=totals.num_rows + receipt.num_rows,
        num_tokens=totals.num_tokens + receipt.num_tokens,
        num_targets=totals.num_targets + receipt.num_targets,
        num_skipped_rows=totals.num_skipped_rows + len(receipt.skipped),
        actor_seconds=totals.actor_seconds + receipt.seconds,
        skipped_rows=(totals.skipped_rows + receipt.skipped)[:NAMED_SKIPPED_ROWS],
    )


def _verdicts(job: ScanJob, queries: list[Query], best: pa.Table, counts_QK: Ints) -> pa.Table:
    largest = best.group_by("query_id").aggregate([("mirror_ratio", "max")])
    ratio_of = dict(zip(largest["query_id"].to_pylist(), largest["mirror_ratio_max"].to_pylist(), strict=True))
    max_ratio_Q = np.array([ratio_of.get(query.query_id, np.nan) for query in queries])
    with ThreadPoolExecutor(READERS) as readers:
        numbers = list(readers.map(lambda query: read_numbers(job.updates_uri, query.digest), queries))
    unknown = pa.nulls(len(queries), pa.float64())
    return pa.table(
        {
            "query_id": [query.query_id for query in queries],
            "num_targets": [each["num_targets"] for each in numbers],
            "base_nats": [each["base_nats"] for each in numbers],
            "moved_nats": [each["moved_nats"] for each in numbers],
            "step_size": [each["step_size"] for each in numbers],
            "max_mirror_ratio": pa.array(max_ratio_Q, mask=np.isnan(max_ratio_Q)),
            "p_value": unknown,
            "q_value": unknown,
            "leaked": decide(max_ratio_Q, job.spec.rank),
            "ratio_counts": pa.array(list(counts_QK), pa.list_(pa.int64())),
        }
    )
