"""What strategies cost, which one is chosen, and how queries are grouped: `finf_core.strategy`."""

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec, StrategySpec
from finf_core.strategy import Counts, Strategy, choose_strategy, group_queries, rows_to_keep, strategy_costs
from tasks.choose_strategy import PassCosts, choose_by_sample
from tasks.job import ScanJob

HUMANEVAL = Counts(
    num_rows=1_000_000, num_queries=164, rows_per_query=20, per_query_equivalents=1.0, one_pass_equivalents=2.3
)


def cost(kind: str, spec: StrategySpec, counts: Counts) -> float:
    return {each.kind: each.forward_equivalents for each in strategy_costs(spec, counts)}[kind]


def test_costs_by_hand() -> None:
    spec = StrategySpec(group_size=16, num_groupings=2)
    counts = replace(HUMANEVAL, num_rows=4_000)
    kept = 1.25 * 20 / 4_000 * 164  # rows of two lists, a mirrored pass for each query
    assert cost("every_query", spec, counts) == 165
    assert cost("one_pass", spec, counts) == pytest.approx(2.3 + kept)
    assert cost("grouped", spec, counts) == pytest.approx(1 + 2 * 11 + 2 * kept)


def test_a_query_costs_what_its_passes_cost() -> None:
    assert cost("every_query", StrategySpec(), replace(HUMANEVAL, per_query_equivalents=2.0)) == 329
    last_block = replace(HUMANEVAL, per_query_equivalents=0.25)
    assert cost("every_query", StrategySpec(), last_block) == 42
    assert cost("grouped", StrategySpec(group_size=4), last_block) == pytest.approx(1 + 41 / 4, abs=0.01)


def test_no_more_rows_are_scored_again_than_there_are() -> None:
    counts = replace(HUMANEVAL, num_rows=10)
    assert cost("one_pass", StrategySpec(), counts) == pytest.approx(2.3 + 164)


def test_many_queries_take_one_pass_and_a_few_are_scored_on_every_row() -> None:
    assert choose_strategy(StrategySpec(), HUMANEVAL).kind == "one_pass"
    assert choose_strategy(StrategySpec(), replace(HUMANEVAL, num_queries=1)).kind == "every_query"
    assert choose_strategy(StrategySpec(), replace(HUMANEVAL, num_rows=20)).kind == "every_query"


@pytest.mark.parametrize(
    ("num_rows", "num_queries", "expected"),
    [
        (2_100, 164, 20),
        (8_000, 164, 32),
        (1_000_000, 164, 4096),
        (1_050_000, 164, 4096),
        (1_000_000, 10_000, 64),
        (10, 50, 20),
    ],
)
def test_as_many_rows_are_kept_as_cost_about_a_pass_and_no_fewer_than_are_listed(
    num_rows: int, num_queries: int, expected: int
) -> None:
    kept = rows_to_keep(StrategySpec(), 20, num_rows, num_queries)
    assert kept == expected
    assert kept == 20 or 0.97 < 1.7 * kept * num_queries / num_rows < 1.24  # 1.1, give or take half a step
    assert rows_to_keep(StrategySpec(rescored_rows=3), 20, num_rows, num_queries) == 3


@pytest.mark.parametrize(("num_queries", "expected"), [(164, 12_288), (10_000, 192), (1_000_000, 20)])
def test_a_corpus_of_any_size_keeps_no_more_than_one_machine_can_merge(num_queries: int, expected: int) -> None:
    for num_rows in (10**9, 10**12):
        assert rows_to_keep(StrategySpec(), 20, num_rows, num_queries) == expected


def test_the_kind_stays_while_the_corpus_grows_and_the_rows_that_are_kept_do_not() -> None:
    """Nine queries: of a small corpus, the rows that are listed anyway make one pass too dear."""
    spec = ScanSpec(name="x", model=ModelSpec(path="m"), corpus=CorpusSpec(path="c"), queries=QueriesSpec(path="q"))
    digests = {"model_digest": "m", "shards_digest": "s", "queries_digest": "q"}
    job = ScanJob(spec=spec, store="store", batch_tokens=None, **digests)
    costs = PassCosts(128, 5_000, 1e9, 1.0, per_query_flops=1e9, one_pass_flops=2.3e9)
    alone = [choose_by_sample(job, costs, num_rows, num_rows, 9) for num_rows in (60, 60_000)]
    assert [each.kind for each in alone] == ["every_query", "one_pass"]
    sampled = choose_by_sample(job, costs, 60, 60_000, 9)
    assert (sampled.kind, sampled.reason) == (alone[0].kind, alone[0].reason)
    assert (sampled.spec.rescored_rows, sampled.costs) == (alone[1].spec.rescored_rows, alone[1].costs)


def test_groups_are_never_chosen_unasked() -> None:
    cheap_groups = StrategySpec(group_size=164)
    assert cost("grouped", cheap_groups, HUMANEVAL) < cost("one_pass", cheap_groups, HUMANEVAL)
    assert choose_strategy(cheap_groups, HUMANEVAL).kind == "one_pass"


def test_what_was_asked_for_is_taken_and_the_rest_of_the_spec_stays() -> None:
    for kind in ("every_query", "one_pass", "grouped"):
        asked = StrategySpec(kind=kind, rank=7, rescored_rows=20)
        assert choose_strategy(asked, HUMANEVAL).spec == asked


def test_an_update_without_a_single_pass_is_scored_on_every_row_and_says_why() -> None:
    counts = replace(HUMANEVAL, one_pass_equivalents=None, no_one_pass="it moves model.norm.weight")
    chosen = choose_strategy(StrategySpec(), counts)
    assert chosen.kind == "every_query"
    assert "model.norm.weight" in chosen.reason
    with pytest.raises(InputError, match=r"one_pass.*model\.norm\.weight"):
        choose_strategy(StrategySpec(kind="one_pass"), counts)


def test_auto_is_not_a_choice() -> None:
    with pytest.raises(InputError):
        _ = Strategy(StrategySpec(), (), "").kind


def test_groups_cannot_be_ordered_by_control_z() -> None:
    with pytest.raises(InputError, match="control_z"):
        ScanSpec(
            name="x",
            model=ModelSpec(path="m"),
            corpus=CorpusSpec(path="c"),
            queries=QueriesSpec(path="q"),
            rank=RankSpec(by="control_z"),
            strategy=StrategySpec(kind="grouped"),
        )


@given(num=st.integers(1, 40), size=st.integers(1, 12), num_groupings=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_query_is_in_one_group_of_each_grouping(num: int, size: int, num_groupings: int, seed: int) -> None:
    groups = group_queries(list(range(num)), size, num_groupings, seed)
    assert max(map(len, groups)) <= size
    per_grouping = len(groups) // num_groupings
    for start in range(0, len(groups), per_grouping):
        assert sorted(chain(*groups[start : start + per_grouping])) == list(range(num))


def test_neighbours_are_kept_apart_and_further_groupings_differ() -> None:
    groups = group_queries(list(range(12)), 4, 2, seed=0)
    assert groups[:3] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert sorted(map(sorted, groups[3:])) != sorted(map(sorted, groups[:3]))
