"""The best rows of each query, kept while streaming: merging is associative, so shards may finish in any order.

Ties are broken by shard and row: the result is a function of the set of candidates alone.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.scores import Floats
from finf_core.spec import RankSpec

CANDIDATES = pa.schema(
    [
        ("query_id", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),  # within the shard, from 0
        ("document_id", pa.string()),
        ("score", pa.float64()),  # nats
        ("mirror_ratio", pa.float64()),  # of the row's best span
        ("row_ratio", pa.float64()),  # of the whole row
        ("control_z", pa.float64()),
        ("others_mean", pa.float64()),  # of the row's row_ratio for all other queries
        ("others_spread", pa.float64()),
        ("shared", pa.float64()),  # of the query's n-grams (finf_core.lexical)
        ("bm25", pa.float64()),
        ("base_nats", pa.float64()),
        ("num_targets", pa.int64()),
        ("text_excerpt", pa.string()),
    ]
)
LEXICAL = ("shared", "bm25")


def top_rows(values_R: Floats, k: int) -> npt.NDArray[np.int64]:
    """Indices of the k largest values, best first, ties in row order; NaN and infinities never rank."""
    ranked = np.flatnonzero(np.isfinite(values_R))
    return ranked[np.argsort(-values_R[ranked], kind="stable")][:k].astype(np.int64)


def merge_top(tables: Sequence[pa.Table], rank: RankSpec) -> pa.Table:
    """Merge candidate tables and keep each query's best rows: by `rank.by` (from both ends), mirror ratio and words.

    Returns:
        `CANDIDATES`, ordered by query and `rank.by`. The largest mirror ratio of each query is always among them.
    """
    return in_order(keep_best(tables, rank), rank)


def keep_best(tables: Sequence[pa.Table], rank: RankSpec) -> pa.Table:
    """As `merge_top`, in no order: for what is merged again."""
    table = pa.concat_tables(tables)
    rows_of = _rows_of_queries(table)
    is_kept = _are_best(table, rows_of, rank.by, rank.top_k)
    is_kept |= _are_best(table, rows_of, "mirror_ratio", rank.num_by_ratio)
    if rank.opponents_k:
        is_kept |= _are_best(table, rows_of, rank.by, rank.opponents_k, from_below=True)
    for lexical in LEXICAL if rank.lexical_k else ():
        has_words = pc.greater(table[lexical], 0).fill_null(False).to_numpy()
        is_kept |= _are_best(table, [rows[has_words[rows]] for rows in rows_of], lexical, rank.lexical_k)
    return table.filter(pa.array(is_kept))  # texts are copied when most rows are gone


def in_order(table: pa.Table, rank: RankSpec) -> pa.Table:
    """By query and `rank.by`, best first."""
    best_first = [(rank.by, "descending"), ("shard", "ascending"), ("row", "ascending")]
    return table.take(pc.sort_indices(table, sort_keys=[("query_id", "ascending"), *best_first]))


def is_among_best(table: pa.Table, by: str, k: int) -> npt.NDArray[np.bool_]:
    """Of each row, in the order of the table: whether it is one of the k best of its query. Null and NaN are worst."""
    return _are_best(table, _rows_of_queries(table), by, k)


def _rows_of_queries(table: pa.Table) -> list[npt.NDArray[np.int64]]:
    query_N = table["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    by_query = np.argsort(query_N, kind="stable")
    return np.split(by_query, np.flatnonzero(np.diff(query_N[by_query])) + 1)


def _are_best(
    table: pa.Table, rows_of: Sequence[npt.NDArray[np.int64]], by: str, k: int, from_below: bool = False
) -> npt.NDArray[np.bool_]:
    """Found by the k-th value of each query: to sort all rows takes ten times as long. Where more than k reach it, the
    first by shard and row are taken."""
    value_N = np.nan_to_num(table[by].to_numpy() * (-1 if from_below else 1), nan=-np.inf)
    is_best = np.zeros(len(table), dtype=np.bool_)
    for rows in rows_of:
        values, surplus = value_N[rows], len(rows) - k
        least = np.partition(values, surplus)[surplus] if surplus > 0 else -np.inf
        is_best[rows[values > least]] = True
        tied = rows[values == least]
        is_best[_first(table, tied, k - int((values > least).sum()))] = True
    return is_best


def _first(table: pa.Table, rows: npt.NDArray[np.int64], num: int) -> npt.NDArray[np.int64]:
    if len(rows) <= num:
        return rows
    places = table.select(["shard", "row"]).take(pa.array(rows))
    order = pc.sort_indices(places, sort_keys=[("shard", "ascending"), ("row", "ascending")])
    first: npt.NDArray[np.int64] = rows[order.to_numpy()[:num]]
    return first


def ranks(sorted_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """1, 2, 3, … within each run of equal ids."""
    codes = sorted_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    return np.arange(len(codes)) - np.repeat(starts, lengths) + 1
