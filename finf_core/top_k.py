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
    table = pa.concat_tables(tables)
    is_kept = is_among_best(table, rank.by, rank.top_k) | is_among_best(table, "mirror_ratio", rank.num_by_ratio)
    if rank.opponents_k:
        is_kept |= is_among_best(table, rank.by, rank.opponents_k, from_below=True)
    for lexical in LEXICAL if rank.lexical_k else ():
        has_words = pc.greater(table[lexical], 0).fill_null(False).to_numpy()
        is_kept |= has_words & is_among_best(table, lexical, rank.lexical_k)
    kept = table.filter(pa.array(is_kept))  # texts are copied when most rows are gone
    return kept.take(_order(kept, rank.by))


def is_among_best(table: pa.Table, by: str, k: int, from_below: bool = False) -> npt.NDArray[np.bool_]:
    """Of each row, in the order of the table: whether it is one of the k best (from below: the least) of its query."""
    order = _order(table, by, "ascending" if from_below else "descending")
    is_among = np.empty(len(table), dtype=np.bool_)
    is_among[order.to_numpy()] = ranks(table["query_id"].take(order)) <= k
    return is_among


def _order(table: pa.Table, by: str, direction: str = "descending") -> pa.UInt64Array:
    keys = [("query_id", "ascending"), (by, direction), ("shard", "ascending"), ("row", "ascending")]
    return pc.sort_indices(table, sort_keys=keys)


def ranks(sorted_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """1, 2, 3, … within each run of equal ids."""
    codes = sorted_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    return np.arange(len(codes)) - np.repeat(starts, lengths) + 1
