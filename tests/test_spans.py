"""The best span of a row, against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.spans import best_span_nats

changes = st.lists(st.lists(st.floats(-2, 2), max_size=8), max_size=6)


def best_by_hand(change: list[float], span: int) -> float:
    if len(change) <= span:
        return sum(change)
    return max(sum(change[start : start + span]) for start in range(len(change) - span + 1))


@given(changes, st.integers(1, 9))
def test_each_row_gets_its_best_run_of_targets(rows: list[list[float]], span: int) -> None:
    flat = np.array([change for row in rows for change in row], dtype=np.float64)
    found = best_span_nats(flat, np.array([len(row) for row in rows], dtype=np.int64), span)
    assert found.tolist() == pytest.approx([best_by_hand(row, span) for row in rows], abs=1e-12)


def test_a_change_that_is_not_finite_spoils_no_other_row() -> None:
    found = best_span_nats(np.array([1.0, np.nan, np.inf, 2.0, 3.0]), np.array([3, 2]), span=2)
    assert found.tolist() == [1.0, 5.0]
