"""Long rows as windows: `finf_core.windows`."""

from itertools import pairwise

import numpy as np
import pytest
import slow_reference
from hypothesis import given
from hypothesis import strategies as st

from finf_core.losses import IGNORE_INDEX
from finf_core.windows import Window, split_into_windows

contexts = st.integers(1, 20)
overlaps = st.integers(0, 25)
counts = st.lists(st.booleans(), max_size=60)
lengths = st.integers(0, 60)


def places(window: Window) -> list[int]:
    """Where in the row the window's targets stand, in rows whose token at place p is p."""
    found: list[int] = window.labels[window.labels != IGNORE_INDEX].tolist()
    return found


@given(counts, contexts, overlaps)
def test_every_target_that_counts_is_counted_exactly_once(counted: list[bool], context: int, overlap: int) -> None:
    windows = split_into_windows(np.arange(len(counted)), context, overlap, np.array(counted, dtype=bool))
    found = [place for window in windows for place in places(window)]
    assert found == [place for place in range(1, len(counted)) if counted[place]]


@given(counts, contexts, overlaps)
def test_a_target_is_predicted_from_the_token_before_it(counted: list[bool], context: int, overlap: int) -> None:
    for window in split_into_windows(np.arange(len(counted)), context, overlap, np.array(counted, dtype=bool)):
        is_target = window.labels != IGNORE_INDEX
        assert (window.labels - window.input_ids)[is_target].tolist() == [1] * int(is_target.sum())
        assert np.diff(window.input_ids).tolist() == [1] * (len(window) - 1)


@given(lengths, contexts, overlaps)
def test_no_window_is_longer_than_the_context(num_tokens: int, context: int, overlap: int) -> None:
    assert all(1 <= len(w) <= context for w in split_into_windows(np.arange(num_tokens), context, overlap))


@given(lengths, contexts, overlaps)
def test_a_further_window_starts_the_overlap_early(num_tokens: int, context: int, overlap: int) -> None:
    windows = split_into_windows(np.arange(num_tokens), context, overlap)
    for before, window in pairwise(windows):
        seen_again = before.input_ids[-1] - window.input_ids[0] + 1
        assert seen_again == min(overlap, context - 1)


@given(counts, st.integers(2, 20), overlaps)
def test_the_windows_are_those_of_the_slow_reference(counted: list[bool], context: int, overlap: int) -> None:
    row = slow_reference.Row(list(range(len(counted))), counted)
    fast = split_into_windows(np.arange(len(counted)), context, overlap, np.array(counted, dtype=bool))
    slow = slow_reference.windows(row, context, overlap)
    assert [w.input_ids.tolist() for w in fast] == [list(w.inputs) for w in slow]
    assert [places(w) for w in fast] == [[token for _, token in w.targets] for w in slow]


@given(st.integers(2, 20), overlaps)
def test_a_row_that_just_fits_is_one_window_and_one_token_more_makes_two(context: int, overlap: int) -> None:
    assert len(split_into_windows(np.arange(context + 1), context, overlap)) == 1
    assert len(split_into_windows(np.arange(context + 2), context, overlap)) == 2


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_a_row_with_nothing_to_predict_has_no_windows(num_tokens: int) -> None:
    assert split_into_windows(np.arange(num_tokens), context_tokens=8, overlap_tokens=2) == []


def test_a_row_whose_mask_leaves_nothing_has_no_windows() -> None:
    only_the_first = np.arange(30) == 0
    assert split_into_windows(np.arange(30), 8, 2, only_the_first) == []


def test_cutting_leaves_the_row_itself_alone() -> None:
    tokens, counted = np.arange(30), np.arange(30) % 2 == 0
    split_into_windows(tokens, 8, 2, counted)
    assert tokens.tolist() == list(range(30))
    assert counted.tolist() == [place % 2 == 0 for place in range(30)]
