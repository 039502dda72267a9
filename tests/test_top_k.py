"""The best rows of each query, whatever order the shards come in."""

import itertools

import numpy as np
import pyarrow as pa
from arrow_peak import arrow_peak_bytes
from hypothesis import given
from hypothesis import strategies as st

from finf_core.ratio_histogram import EDGES, NUM_BINS, count_ratios
from finf_core.spec import RankSpec
from finf_core.top_k import CANDIDATES, merge_top, ranks, top_rows

ratios = st.sampled_from([-0.2, 0.0, 0.1, 0.1, 0.5, 1.0])  # few values, so that ties are common
keys = st.tuples(st.sampled_from(["q1", "q2", "q3"]), st.sampled_from(["a", "b"]), st.integers(0, 30))


def table(rows: dict[tuple[str, str, int], float]) -> pa.Table:
    columns = {name: [None] * len(rows) for name in CANDIDATES.names}
    columns["query_id"], columns["shard"], columns["row"] = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
    columns["mirror_ratio"] = list(rows.values())
    return pa.table(columns, schema=CANDIDATES)


def with_row_ratios(rows: dict[tuple[str, str, int], float], row_ratios: list[float]) -> pa.Table:
    place = CANDIDATES.get_field_index("row_ratio")
    return table(rows).set_column(place, CANDIDATES.field(place), pa.array(row_ratios, pa.float64()))


def best_by_hand(rows: dict[tuple[str, str, int], float], k: int) -> list[tuple[str, str, int]]:
    result = []
    for query in sorted({key[0] for key in rows}):
        mine = [key for key in rows if key[0] == query]
        result += sorted(mine, key=lambda key: (-rows[key], key[1], key[2]))[:k]
    return result


@given(st.dictionaries(keys, ratios, max_size=60), st.integers(1, 5), st.randoms())
def test_merging_in_any_order_and_grouping_keeps_the_same_rows(rows, k, random) -> None:
    parts = [dict(items) for items in np.array_split(np.array(list(rows.items()), dtype=object), 4)] if rows else [rows]
    random.shuffle(parts)
    merged, rank = CANDIDATES.empty_table(), RankSpec(top_k=k, by="mirror_ratio")
    for part in parts:
        merged = merge_top([merged, merge_top([table(part)], rank)], rank)
    found = list(zip(*(merged[name].to_pylist() for name in ("query_id", "shard", "row")), strict=True))
    assert found == best_by_hand(rows, k)


@given(st.lists(st.tuples(ratios, ratios), max_size=30), st.integers(1, 4), st.sampled_from([None, 1, 2, 6]))
def test_the_best_by_mirror_ratio_are_kept_beside_the_best_by_the_order(values, k, mirror_k) -> None:
    mirrors = {("q1", "a", row): mirror for row, (mirror, _) in enumerate(values)}
    rows = with_row_ratios(mirrors, [whole for _, whole in values])
    merged = CANDIDATES.empty_table()
    for start in range(0, len(values), 7):
        merged = merge_top([merged, rows.slice(start, 7)], RankSpec(top_k=k, mirror_k=mirror_k))
    numbers = range(len(values))
    kept = {0: mirror_k or k, 1: k}
    best = {row for part in (0, 1) for row in sorted(numbers, key=lambda row: (-values[row][part], row))[: kept[part]]}
    assert merged["row"].to_pylist() == sorted(best, key=lambda row: (-values[row][1], row))


@given(
    st.dictionaries(keys, st.tuples(ratios, ratios), max_size=60),
    st.lists(st.integers(0, 60), max_size=9),
    st.integers(1, 5),
    st.randoms(),
)
def test_any_tree_of_merges_is_one_merge(values, cuts, k, random) -> None:
    rows = with_row_ratios(
        {key: mirror for key, (mirror, _) in values.items()}, [whole for _, whole in values.values()]
    )
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    parts = [rows.slice(low, high - low) for low, high in itertools.pairwise(bounds)] or [rows]
    while len(parts) > 1:
        random.shuffle(parts)
        num_merged = random.randint(2, len(parts))
        parts = [merge_top(parts[:num_merged], RankSpec(top_k=k)), *parts[num_merged:]]
    assert merge_top(parts, RankSpec(top_k=k)).equals(merge_top([rows], RankSpec(top_k=k)))


unknown_too = st.one_of(st.none(), ratios)


@given(st.dictionaries(keys, st.tuples(unknown_too, unknown_too), max_size=60), st.integers(1, 4), st.integers(0, 3))
def test_both_ends_and_shared_words_are_kept_and_null_is_worst(values, k, other_k) -> None:
    rows = table(dict.fromkeys(values, 0.0))
    for name, column in (("control_z", [z for z, _ in values.values()]), ("bm25", [b for _, b in values.values()])):
        place = CANDIDATES.get_field_index(name)
        rows = rows.set_column(place, CANDIDATES.field(place), pa.array(column, pa.float64()))
    rank = RankSpec(top_k=k, by="control_z", mirror_k=1, opponents_k=other_k, lexical_k=other_k)
    merged = merge_top([rows], rank)
    wanted = set()
    for query in {key[0] for key in values}:
        mine = sorted(key for key in values if key[0] == query)
        wanted |= {*mine[:1]}  # all mirror ratios are equal
        wanted |= {*sorted(mine, key=lambda key: -_known(values[key][0]))[:k]}
        wanted |= {*sorted(mine, key=lambda key: -_known(values[key][0], -1))[:other_k]}
        with_words = [key for key in mine if (values[key][1] or 0) > 0]
        wanted |= {*sorted(with_words, key=lambda key: -_known(values[key][1]))[:other_k]}
    assert set(zip(*(merged[name].to_pylist() for name in ("query_id", "shard", "row")), strict=True)) == wanted


def _known(value: float | None, sign: int = 1) -> float:
    return -np.inf if value is None else sign * value


def test_the_texts_of_rows_that_are_not_kept_are_not_copied() -> None:
    rows = table({("q1", "a", row): row % 97 / 97 for row in range(4000)})
    place = CANDIDATES.get_field_index("text_excerpt")
    rows = rows.set_column(place, CANDIDATES.field(place), pa.array([f"{row:04}" * 200 for row in range(4000)]))
    rank = RankSpec(top_k=5, by="mirror_ratio")
    merged = merge_top([rows], rank)
    assert merged["text_excerpt"].to_pylist() == [f"{row:04}" * 200 for row in range(96, 96 + 5 * 97, 97)]
    assert arrow_peak_bytes(lambda: merge_top([rows], rank)) < 0.2 * rows.nbytes


def test_ranks_restart_for_each_query() -> None:
    assert ranks(pa.chunked_array([["a", "a"], ["a", "b"], ["c", "c"]])).tolist() == [1, 2, 3, 1, 1, 2]


def test_nan_and_infinity_never_rank_and_ties_keep_row_order() -> None:
    assert top_rows(np.array([0.1, np.nan, 0.5, np.inf, 0.5, -np.inf]), 3).tolist() == [2, 4, 0]


def test_every_finite_ratio_is_counted_once_in_its_bin() -> None:
    ratio_RQ = np.array([[-9.0], [0.0], [0.005], [1.0], [1.5], [np.nan], [np.inf]])
    [counts_K] = count_ratios(ratio_RQ)
    assert counts_K.sum() == 5
    assert (counts_K[0], counts_K[-1]) == (1, 1)  # -9 below; 1.5 is the first value above
    zero = int(np.searchsorted(EDGES, 0.0, side="right"))
    assert counts_K[zero] == 2
    assert len(counts_K) == NUM_BINS + 2
