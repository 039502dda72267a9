"""The simulated fleet loses no unit and counts none twice; without failures it is arithmetic."""

import time

import pytest

from benchmarks.fleet import Fleet, gpu_hours, simulate
from tasks import work_queue


def test_without_failures_it_is_a_closed_form() -> None:
    outcome = simulate(Fleet(num_actors=8, unit_seconds=3.0, load_seconds=10.0), 100)
    assert outcome.wall_seconds == pytest.approx(10.0 + 13 * 3.0)  # 100 units by eight
    assert outcome.num_begun == outcome.num_done == 100


def test_a_slow_coordinator_sets_the_pace() -> None:
    outcome = simulate(Fleet(num_actors=50, unit_seconds=0.1, coordinator_seconds=0.1), 200)
    assert outcome.wall_seconds == pytest.approx(200 * 0.1 + 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_no_unit_is_lost_or_counted_twice(seed: int) -> None:
    fleet = Fleet(num_actors=5, unit_seconds=60, deaths_per_hour=20, replace_seconds=30, failure_share=0.1)
    outcome = simulate(fleet, 500, seed)
    assert outcome.num_deaths > 20
    assert outcome.num_failures > 20
    assert outcome.num_done + outcome.num_given_up == 500
    assert outcome.num_begun == outcome.num_done + outcome.num_deaths + outcome.num_failures


def test_the_queue_has_its_own_clock_back() -> None:
    simulate(Fleet(num_actors=1, unit_seconds=1.0), 1)
    assert work_queue.time is time


def test_every_query_costs_a_pass_for_each_and_one_more() -> None:
    assert gpu_hours("1B", 10**9, 164, "every_query") == pytest.approx(165 * 10**9 / 151_000 / 3600)
    assert 4 < gpu_hours("1B", 10**9, 164, "one_pass") < 6  # docs/PERFORMANCE.md: 5.0
