"""Leaked or not, with p- and q-values from controls: `finf_core.verdict`."""

import numpy as np
import pytest

from finf_core.scores import Floats
from finf_core.spec import RankSpec, VerdictSpec
from finf_core.verdict import NO_ERROR_RATE, Statistics, conformal_p_values, decide, verdict_note, verdict_rule

NUM_DRAWS = 2000
NOBODY = Statistics(*np.zeros((4, 0)))


def by_rank(values: Floats) -> Statistics:
    """Of queries that are no copies, by either measure."""
    return Statistics(values, *np.zeros((3, len(values))))


def test_a_p_value_counts_the_controls_that_reach_the_query_and_the_query_itself() -> None:
    controls = np.array([0.1, 0.2, 0.2, 0.9])
    found = conformal_p_values(np.array([1.0, 0.9, 0.2, 0.15, 0.0, np.nan]), controls)
    np.testing.assert_allclose(found, np.array([1, 2, 4, 4, 5, 5]) / 5)


def test_a_control_without_a_score_reaches_nobody_who_has_one() -> None:
    assert conformal_p_values(np.array([-5.0]), np.array([np.nan, np.nan, 0.0])).tolist() == [0.5]


def slow_q_values(p_values: list[float]) -> list[float]:
    """Benjamini–Hochberg by its definition: the smallest fdr at which a query is among those called leaked."""

    def called(fdr: float) -> set[int]:
        order = sorted(range(len(p_values)), key=lambda query: p_values[query])
        passing = [k for k, query in enumerate(order, 1) if p_values[query] <= fdr * k / len(order) + 1e-12]
        return set(order[: max(passing, default=0)])

    grid = sorted({p * len(p_values) / k for p in p_values for k in range(1, len(p_values) + 1)})
    return [min(fdr for fdr in grid if query in called(fdr)) for query in range(len(p_values))]


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        found, _ = decide(by_rank(rng.normal(size=9) + 1), by_rank(rng.normal(size=30)), VerdictSpec(fdr=0.1))
        np.testing.assert_allclose(found.q_value_Q, slow_q_values(found.p_value_Q.tolist()))
        assert found.leaked_Q == (found.q_value_Q <= 0.1).tolist()


@pytest.mark.parametrize("fdr", [0.01, 0.05, 0.1])
def test_without_any_leak_hardly_a_benchmark_has_a_query_called_leaked(fdr: float) -> None:
    """Under the null any discovery is false, so at most a share `fdr` of benchmarks may have one."""
    rng, spec = np.random.default_rng(1), VerdictSpec(fdr=fdr)
    flagged = 0
    for _ in range(NUM_DRAWS):
        values = rng.standard_t(3, size=40 + 400)
        found, _ = decide(by_rank(values[:40]), by_rank(values[40:]), spec)
        flagged += any(found.leaked_Q)
    assert flagged / NUM_DRAWS <= fdr + 3 * np.sqrt(fdr * (1 - fdr) / NUM_DRAWS)


def test_with_leaks_the_share_of_false_ones_stays_within_the_rate_and_leaks_are_found() -> None:
    rng, spec = np.random.default_rng(2), VerdictSpec(fdr=0.1)
    false_share, found_share = [], []
    for _ in range(NUM_DRAWS):
        clean, leaked, controls = rng.normal(size=30), rng.normal(4, 1, size=20), rng.normal(size=200)
        found, _ = decide(by_rank(np.concatenate([clean, leaked])), by_rank(controls), spec)
        num_false = sum(found.leaked_Q[:30])
        false_share.append(num_false / max(1, sum(found.leaked_Q)))
        found_share.append(np.mean(found.leaked_Q[30:]))
    assert np.mean(false_share) <= 0.1
    assert np.mean(found_share) > 0.9
    assert np.mean(false_share) > 0.03  # it is not merely timid


def test_a_copy_is_called_leaked_whatever_its_q_value_and_a_query_without_a_score_never() -> None:
    nothing = np.full(6, np.nan)
    ratio, shared = np.array([1.0, 0.5, 0.49, np.nan, 0.0, 0.0]), np.array([0, 0, 0, np.nan, 0.5, 0.49])
    queries = Statistics(np.array([0, 0, 0, np.nan, 0, 0]), ratio, shared, nothing)
    controls = Statistics(np.array([5.0, 6.0]), np.array([0.1, 0.7]), np.array([0.5, 0.5]), np.zeros(2))
    found, null = decide(queries, controls, VerdictSpec())
    assert found.leaked_Q == [True, True, False, False, True, False]
    assert (null.largest, null.largest_ratio, null.num_copied, null.num_shared) == (6.0, 0.7, 1, 2)


def test_a_copy_counts_as_learned_when_the_model_predicts_it_better_than_controls() -> None:
    shared = np.array([1.0, 1.0, 0.0, 0.0])
    queries = Statistics(np.array([0.0, 9.0, 9.0, 0.0]), np.zeros(4), shared, np.array([1.0, 3.0, 1.0, 1.0]))
    controls = Statistics(np.linspace(0, 1, 99), np.zeros(99), np.zeros(99), np.linspace(2, 4, 99))
    found, _ = decide(queries, controls, VerdictSpec(fdr=0.05))
    assert found.outcome_Q == ["copied_learned", "copied_not_learned", "rephrased_learned", "neither"]
    np.testing.assert_allclose(found.loss_p_value_Q, [0.01, 0.51, np.nan, np.nan])
    np.testing.assert_allclose(found.loss_q_value_Q, [0.02, 0.51, np.nan, np.nan])  # over the copied ones alone


def test_copies_that_no_model_learned_are_hardly_ever_called_learned() -> None:
    rng, spec, called = np.random.default_rng(3), VerdictSpec(fdr=0.1), 0
    for _ in range(NUM_DRAWS):
        nats = rng.gamma(5, size=120)
        copies = Statistics(np.zeros(20), np.ones(20), np.ones(20), nats[:20])
        found, _ = decide(copies, Statistics(*np.zeros((3, 100)), nats[20:]), spec)
        called += "copied_learned" in found.outcome_Q
    assert 0.02 < called / NUM_DRAWS <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / NUM_DRAWS)


def test_without_controls_there_is_a_threshold_and_no_error_rate() -> None:
    spec = VerdictSpec(copied_from=0.6)
    queries = Statistics(np.array([3.0, 9.0]), np.array([0.2, 0.8]), np.zeros(2), np.zeros(2))
    found, null = decide(queries, NOBODY, spec)
    assert found.outcome_Q == ["neither", "copied"]
    for values in (found.p_value_Q, found.q_value_Q, found.loss_p_value_Q, found.loss_q_value_Q):
        assert np.isnan(values).all()
    assert verdict_note(null, 2, VerdictSpec()) == NO_ERROR_RATE
    assert verdict_rule(RankSpec(lexical_k=0), spec, 0) == "leaked when its largest mirror ratio is at least 0.60"
    assert "or one row holds 50% of its 8-word sequences" in verdict_rule(RankSpec(), spec, 0)


def test_the_note_says_when_controls_can_tell_nobody_and_how_many_would_do() -> None:
    null = decide(by_rank(np.zeros(10)), by_rank(np.zeros(3)), VerdictSpec(fdr=0.05))[1]
    note = verdict_note(null, 10, VerdictSpec(fdr=0.05))
    assert "can call no query leaked by its q-value; 199 could tell a single one" in note


@pytest.mark.parametrize("num_controls", [19, 99, 100, 1999])
def test_the_note_says_how_many_leaks_so_few_controls_can_tell(num_controls: int) -> None:
    """Queries that all stand beyond every control: as many as it says are called leaked, one fewer is not."""
    spec = VerdictSpec(fdr=0.05)
    controls, num_queries = by_rank(np.zeros(num_controls)), 50

    def called(num_leaked: int) -> int:
        statistic_Q = np.where(np.arange(num_queries) < num_leaked, 1.0, -1.0)
        return sum(decide(by_rank(statistic_Q), controls, spec)[0].leaked_Q)

    least = decide(by_rank(np.zeros(50)), controls, spec)[1].least_queries
    assert least is not None
    if least <= num_queries:
        assert called(least) == least
    assert least == 1 or called(min(least, num_queries + 1) - 1) == 0
