"""The numbers of a score, against plain Python."""

import math
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.ranking import rank_rows
from finf_core.scores import SPREAD_FLOOR, control_z, influence_score, mirror_ratio, other_ratios, row_ratio
from finf_core.scoring import RowLosses
from finf_core.spec import RankSpec

ratios = st.lists(st.lists(st.floats(-2, 2), min_size=4, max_size=4), min_size=1, max_size=5)


def test_a_row_that_is_hurt_by_unlearning_is_a_proponent_and_learning_says_the_same() -> None:
    base, worse, better = np.array([5.0]), np.array([6.0]), np.array([4.5])
    assert influence_score(base, worse, "ascent") == [1.0]
    assert influence_score(base, better, "descent") == [0.5]


def test_ratios_are_per_target_and_per_nat_that_the_query_moved() -> None:
    moved = np.array([0.1])
    assert row_ratio(np.array([[2.0], [1.0]]), np.array([10, 0]), moved).tolist() == [[2.0], [0.0]]
    assert mirror_ratio(np.array([[2.0]]), np.array([40]), moved).tolist() == [[0.5]]


@given(ratios)
def test_control_z_is_the_distance_from_the_other_queries_of_the_row(rows: list[list[float]]) -> None:
    found = control_z(np.array(rows), other_ratios(np.array(rows)))
    for row, z in zip(rows, found, strict=True):
        for query, ratio in enumerate(row):
            others = row[:query] + row[query + 1 :]
            spread = math.hypot(pstdev(others), SPREAD_FLOOR)
            assert z[query] == pytest.approx((ratio - fmean(others)) / spread, rel=1e-4, abs=1e-4)


def test_control_z_wants_two_other_queries() -> None:
    assert np.isnan(control_z(np.ones((3, 2)), other_ratios(np.ones((3, 2))))).all()


@pytest.mark.parametrize(("by", "best"), [("row_ratio", 0), ("mirror_ratio", 1), ("control_z", 2)])
def test_rows_are_kept_by_what_the_config_says_and_always_by_mirror_ratio(by: str, best: int) -> None:
    """Row 0 moves most as a whole, but for every query; row 1 holds a copy; row 2 moves for query 0 alone."""
    scores = np.array([[90.0, 80, 85, 88], [50, 10, 0, 5], [40, 0, 0, 0]])
    spans = np.array([[9.0, 8, 8, 8], [10, 1, 0, 1], [4, 0, 0, 0]])
    losses = RowLosses(np.zeros(3), np.full(3, 100), scores, spans, np.zeros(300), np.full(3, 100))
    ranked = rank_rows(losses, np.ones(4), np.full(4, 10), "ascent", RankSpec(top_k=1, by=by))
    assert set(ranked.kept[0].tolist()) == {best, 1}
