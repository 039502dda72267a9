"""Recall@k and MRR: what counts as found, and at which place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.recall import mean_recall_at_k, mean_reciprocal_rank, rank_of, recall_at_k, reciprocal_rank

RANKINGS = [["a", "b", "c"], ["b", "a", "c"], ["c", "b"], []]
TRUTHS = ["a", "a", "a", "a"]  # places 1, 2, not listed, not listed


def test_ranks_count_from_one() -> None:
    assert [rank_of(["a", "b", "c"], truth) for truth in "abc"] == [1, 2, 3]


def test_what_is_not_listed_has_no_rank() -> None:
    assert rank_of(["a", "b"], "z") is None
    assert reciprocal_rank(["a", "b"], "z") == 0.0


def test_recall_looks_at_the_first_k_and_no_further() -> None:
    assert [recall_at_k(["a", "b", "c"], "b", k) for k in (1, 2, 3)] == [0.0, 1.0, 1.0]


def test_a_ranking_shorter_than_k_is_read_to_its_end() -> None:
    assert recall_at_k(["a", "b"], "b", 20) == 1.0
    assert recall_at_k(["a", "b"], "c", 20) == 0.0


def test_means_count_a_query_that_found_nothing() -> None:
    assert mean_recall_at_k(RANKINGS, TRUTHS, 1) == 1 / 4
    assert mean_recall_at_k(RANKINGS, TRUTHS, 2) == 2 / 4
    assert mean_reciprocal_rank(RANKINGS, TRUTHS) == (1 + 1 / 2) / 4


@given(st.permutations(range(6)), st.integers(0, 7))
def test_recall_never_falls_as_k_grows(ranked: list[int], truth: int) -> None:
    recalls = [recall_at_k(ranked, truth, k) for k in range(1, 9)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == float(truth in range(6))


@given(st.lists(st.tuples(st.permutations(range(5)), st.integers(0, 6)), min_size=1))
def test_mrr_lies_between_recall_at_one_and_recall_at_all(queries: list[tuple[list[int], int]]) -> None:
    rankings, truths = zip(*queries, strict=True)
    mrr = mean_reciprocal_rank(rankings, truths)
    assert mean_recall_at_k(rankings, truths, 1) <= mrr <= mean_recall_at_k(rankings, truths, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"got {k}"):
        recall_at_k(["a"], "a", k)


def test_rankings_without_their_truths_are_refused() -> None:
    with pytest.raises(InputError, match="got 4 and 3"):
        mean_reciprocal_rank(RANKINGS, TRUTHS[:3])


def test_a_mean_over_no_queries_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        mean_recall_at_k([], [], 1)
