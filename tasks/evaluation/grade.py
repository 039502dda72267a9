"""Grade rankings against a given truth: recall@k, MRR, AUC, and the calibration of the mirror ratio.

Name suffixes: R rows, Q queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finf_core.errors import InputError
from finf_core.metrics import auc, recall_at_k, reciprocal_rank
from finf_core.ratio_histogram import EDGES
from finf_core.scores import Floats
from finf_core.top_k import top_rows
from tasks import storage
from tasks.checkpoint import load_chat
from tasks.corpus import plan_units, read_unit, shards_from_table
from tasks.evaluation.given_truth import RowKey, TrueRows, is_by_place, row_key
from tasks.evaluation.lexical_baselines import LEXICAL
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.resolve_inputs import read_job

BINS = (-0.5, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.5)  # of the mirror ratio; all are edges of the histogram


@dataclass(frozen=True)
class Ranked:
    """What one method says of one query."""

    rows: Sequence[RowKey]  # best first; may stop early
    largest: float  # the best row's mirror ratio, or a baseline's largest score


def grade(ranked: Mapping[str, Ranked], true_rows: TrueRows, recall_at: Sequence[int]) -> dict[str, float | None]:
    """Means over the queries that have true rows; AUC of them against the queries that have none, by `largest`.

    Raises:
        InputError: the truth names a query that was not scanned.
    """
    if unknown := sorted(set(true_rows) - set(ranked)):
        raise InputError(
            f"the truth names query_id {unknown[0]!r}, which the scan does not have; first: {list(ranked)[:3]}"
        )
    found = [(ranked[query].rows, true_rows[query]) for query in ranked if query in true_rows]
    numbers: dict[str, float | None] = {
        f"recall_at_{k}": float(np.mean([recall_at_k(rows, truths, k) for rows, truths in found])) for k in recall_at
    }
    numbers["mrr"] = float(np.mean([reciprocal_rank(rows, truths) for rows, truths in found]))
    has_truth = np.array([query in true_rows for query in ranked])
    largest = np.nan_to_num([each.largest for each in ranked.values()], nan=-np.inf)
    numbers["auc"] = auc(largest, has_truth) if 0 < has_truth.sum() < len(ranked) else None
    return numbers


def ranked_by_scan(run_uri: str, by_place: bool) -> dict[str, Ranked]:
    """The rankings of a finished scan, in the order that its config asked for."""
    largest = {row["query_id"]: row["max_mirror_ratio"] for row in _judged(run_uri)}
    rows: dict[str, list[RowKey]] = {query_id: [] for query_id in largest}
    for row in storage.read_table(storage.join(run_uri, "top.parquet")).to_pylist():
        if row["query_id"] in rows and (key := row_key(row, by_place)) is not None:
            rows[row["query_id"]].append(key)
    return {query_id: Ranked(rows[query_id], _number(value)) for query_id, value in largest.items()}


def _judged(run_uri: str) -> list[dict[str, Any]]:
    """Lines of queries.parquet that are no controls: nothing is known of their rows."""
    lines = storage.read_table(storage.join(run_uri, "queries.parquet")).to_pylist()
    return [line for line in lines if not line.get("is_control")]


def ranked_by_words(run_uri: str, method: str, by_place: bool, seed: int) -> dict[str, Ranked]:
    """A lexical baseline on the same rows; it reads a query's target. A row that shares nothing is not listed."""
    job = read_job(run_uri)
    keys, texts = zip(*_rows(job, by_place), strict=True)
    queries = [query for query in read_queries(job.queries_uri) if not query.is_control]
    scores_RQ = LEXICAL[method](texts, [query.target for query in queries], seed)
    return {query.query_id: _ranked(keys, scores_R) for query, scores_R in zip(queries, scores_RQ.T, strict=True)}


def calibrate(run_uri: str, true_rows: TrueRows) -> list[dict[str, Any]]:
    """Of all rows whose mirror ratio lies in a bin, for any query: how many, and how many true ones are listed."""
    edges_of_bins = np.searchsorted(EDGES, np.array(BINS) - 1e-9)
    counts = np.sum([line["ratio_counts"] for line in _judged(run_uri)], axis=0)
    num_rows = np.add.reduceat(counts, [0, *(edges_of_bins + 1)])
    by_place = is_by_place(true_rows)
    listed = storage.read_table(storage.join(run_uri, "top.parquet")).to_pylist()
    ratios = [row["mirror_ratio"] for row in listed if row_key(row, by_place) in true_rows.get(row["query_id"], set())]
    num_true = np.bincount(np.digitize(ratios, BINS), minlength=len(BINS) + 1)
    bounds = [None, *BINS, None]
    return [
        {"low": bounds[i], "high": bounds[i + 1], "num_rows": int(num_rows[i]), "num_true": int(num_true[i])}
        for i in range(len(BINS) + 1)
    ]


def _rows(job: ScanJob, by_place: bool) -> Iterator[tuple[RowKey, str]]:
    chat = load_chat(job.spec)
    for unit in plan_units(shards_from_table(storage.read_table(job.shards_uri))):
        for rows in read_unit(unit, job.spec.corpus, chat):
            for row in rows:
                key = row_key({"document_id": row.document_id, "shard": unit.shard, "row": row.row}, by_place)
                if key is not None:
                    yield key, row.text or ""


def _ranked(keys: Sequence[RowKey], scores_R: Floats) -> Ranked:
    best = [place for place in top_rows(scores_R, len(scores_R)) if scores_R[place] > 0]
    return Ranked([keys[place] for place in best], float(scores_R.max()))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
