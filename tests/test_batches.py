"""Which windows run together: `finf_core.batches`."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from finf_core.batches import plan_batches

many_lengths = st.lists(st.integers(1, 50), max_size=60)
budgets = st.integers(1, 200)


@given(many_lengths, budgets)
def test_every_window_runs_exactly_once(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    assert all(plan)


@given(many_lengths, budgets)
def test_a_padded_batch_stays_within_the_budget_or_is_one_window(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        padded_tokens = max(lengths[index] for index in batch) * len(batch)
        assert padded_tokens <= budget or len(batch) == 1


@given(many_lengths, budgets)
def test_a_window_longer_than_the_budget_runs_alone(lengths: list[int], budget: int) -> None:
    alone = {batch[0] for batch in plan_batches(lengths, budget) if len(batch) == 1}
    assert {index for index, length in enumerate(lengths) if length > budget} <= alone


@given(many_lengths, budgets)
def test_a_batch_ends_when_it_is_full_or_one_more_would_pad_the_others_much(lengths: list[int], budget: int) -> None:
    plan = plan_batches(lengths, budget)
    for batch, following in pairwise(plan):
        with_one_more = [lengths[index] for index in [*batch, following[0]]]
        is_full = max(with_one_more) * len(with_one_more) > budget
        assert is_full or len(batch) * (with_one_more[-1] - with_one_more[-2]) > budget / 16


@given(many_lengths, budgets)
def test_no_window_pads_those_before_it_by_more_than_a_sixteenth_of_the_budget(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        for place, (shorter, longer) in enumerate(pairwise(batch), start=1):
            assert place * (lengths[longer] - lengths[shorter]) <= budget / 16


@given(many_lengths, budgets)
def test_batches_go_from_short_to_long_and_ties_keep_their_order(lengths: list[int], budget: int) -> None:
    order = [index for batch in plan_batches(lengths, budget) for index in batch]
    assert [(lengths[index], index) for index in order] == sorted(zip(lengths, range(len(lengths)), strict=True))


def test_windows_of_one_length_fill_the_budget() -> None:
    assert plan_batches([4] * 7, batch_tokens=12) == [[0, 1, 2], [3, 4, 5], [6]]
