"""Merge the units: the best rows of each query, the histogram of all, and the verdicts. Holds no rows of the corpus."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.scores import Floats, Ints
from finf_core.spec import RankSpec
from finf_core.top_k import ranks
from finf_core.verdict import Null, Statistics, decide
from tasks import storage
from tasks.bundles import read_kept
from tasks.job import ScanJob
from tasks.joined_scores import JoinedUnit, compare_with_others, joined_units
from tasks.merge_units import MergedUnits, merge_units
from tasks.quarantine import Quarantine
from tasks.queries import Query, read_queries
from tasks.rankers import group_columns
from tasks.score_shards import kept_units, planned_units
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
    num_quarantined_rows: int
    quarantined: list[dict[str, Any]]


def aggregate(job: ScanJob) -> str:
    """Publish top.parquet, queries.parquet and, last, totals.json; returns its URI."""
    queries = read_queries(job.queries_uri)
    merged = merge_scores(job, None if job.has_first_pass else job.spec.rank)
    best, counts_QK, kept_seconds = merged.best, merged.counts_QK, 0.0
    if job.has_first_pass:
        best, kept_seconds = read_kept(job)
        counts_QK = counts_QK[_first_column(job, queries)]
    elif not job.is_one_set:
        best = compare_with_others(job, best)
    top = best.add_column(1, "rank", pa.array(ranks(best["query_id"])))
    storage.publish_table(job.file("top.parquet"), top)
    verdicts, null = _verdicts(job, queries, best, counts_QK)
    storage.publish_table(job.file("queries.parquet"), verdicts)
    totals = asdict(_totals(job, merged, kept_seconds)) | {"null": asdict(null)}
    storage.publish_bytes(job.totals_uri, json.dumps(totals).encode())
    return job.totals_uri


def merge_scores(job: ScanJob, rank: RankSpec | None) -> MergedUnits:
    """All units of the pass over the corpus; with a rank, their best rows too."""
    queries = read_queries(job.queries_uri)
    if not job.is_one_set:
        return merge_units(joined_units(job), len(queries), rank, NAMED_SKIPPED_ROWS, JoinedUnit.read)
    columns = group_columns(job, queries) if job.has_first_pass else queries
    folder, fingerprint = job.scores_uri, job.scores_fingerprint
    uris = (storage.join(folder, unit.name(fingerprint)) for unit in kept_units(job))
    return merge_units(uris, len(columns), rank, NAMED_SKIPPED_ROWS)


def _first_column(job: ScanJob, queries: Sequence[Query]) -> list[int]:
    """The first column of the first pass that stands for each query."""
    column_of: dict[str, int] = {}
    for index, group in enumerate(group_columns(job, queries).values()):
        for query in group:
            column_of.setdefault(query.query_id, index)
    return [column_of[query.query_id] for query in queries]


def _totals(job: ScanJob, merged: MergedUnits, kept_seconds: float) -> Totals:
    quarantined = Quarantine(job).read()
    return Totals(
        num_shards=sum(unit.first_group == 0 for unit in planned_units(job)),
        num_rows=merged.receipt.num_rows,
        num_tokens=merged.receipt.num_tokens,
        num_targets=merged.receipt.num_targets,
        num_skipped_rows=merged.num_skipped,
        actor_seconds=merged.receipt.seconds + kept_seconds,
        skipped_rows=merged.receipt.skipped,
        num_quarantined_rows=sum(each.unit.num_rows for each in quarantined),
        quarantined=[each.place() for each in quarantined],
    )


def _verdicts(job: ScanJob, queries: list[Query], best: pa.Table, counts_QK: Ints) -> tuple[pa.Table, Null]:
    """A line for each query, controls last, and what the controls reach."""
    with ThreadPoolExecutor(READERS) as readers:
        numbers = list(readers.map(lambda query: read_numbers(job.updates_uri, query.digest), queries))
    statistics = Statistics(
        rank_by=_largest(queries, best, job.spec.rank.by),
        mirror_ratio=_largest(queries, best, "mirror_ratio"),
        shared=_largest(queries, best, "shared"),
        nats=np.array([each["base_nats"] / each["num_targets"] for each in numbers]),
    )
    num_asked = sum(not query.is_control for query in queries)
    found, null = decide(statistics.of(slice(num_asked)), statistics.of(slice(num_asked, None)), job.spec.verdict)
    unknown = [None] * null.num_controls
    table = pa.table(
        {
            "query_id": [query.query_id for query in queries],
            "is_control": [query.is_control for query in queries],
            "num_targets": [each["num_targets"] for each in numbers],
            "base_nats": [each["base_nats"] for each in numbers],
            "moved_nats": [each["moved_nats"] for each in numbers],
            "step_size": [each["step_size"] for each in numbers],
            "max_mirror_ratio": pa.array(_or_none(statistics.mirror_ratio), pa.float64()),
            "max_shared": pa.array(_or_none(statistics.shared), pa.float64()),
            "statistic": pa.array(_or_none(statistics.rank_by), pa.float64()),
            "p_value": pa.array(_or_none(found.p_value_Q) + unknown, pa.float64()),
            "q_value": pa.array(_or_none(found.q_value_Q) + unknown, pa.float64()),
            "loss_p_value": pa.array(_or_none(found.loss_p_value_Q) + unknown, pa.float64()),
            "loss_q_value": pa.array(_or_none(found.loss_q_value_Q) + unknown, pa.float64()),
            "leaked": pa.array(found.leaked_Q + unknown, pa.bool_()),
            "outcome": pa.array(found.outcome_Q + unknown, pa.string()),
            "ratio_counts": pa.array(list(counts_QK), pa.list_(pa.int64())),
        }
    )
    return table, null


def _largest(queries: Sequence[Query], best: pa.Table, column: str) -> Floats:
    """Of each query's rows; NaN where none is finite."""
    largest = best.group_by("query_id").aggregate([(column, "max")])
    of_query = dict(zip(largest["query_id"].to_pylist(), largest[f"{column}_max"].to_pylist(), strict=True))
    found = [of_query.get(query.query_id) for query in queries]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _or_none(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
