"""The simulated fleet loses no unit and counts none twice, is arithmetic where it can be, and agrees with Ray."""

import itertools
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pool_actors import Sleeper

from benchmarks.fleet_simulation import NEVER, Fleet, simulate
from tasks import work_queue
from tasks.actor_pool import ActorPool, PoolOptions

TESTS = Path(__file__).parent


def test_without_failures_it_is_a_closed_form() -> None:
    outcome = simulate(Fleet(num_actors=8, unit_seconds=3.0, load_seconds=10.0), 100)
    assert outcome.wall_seconds == pytest.approx(10.0 + 13 * 3.0)  # 100 units by eight
    assert outcome.num_begun == outcome.num_done == 100
    assert outcome.seconds["useful"] == pytest.approx(300)
    assert outcome.seconds["boot"] == pytest.approx(80)
    assert outcome.seconds["idle"] == pytest.approx(4 * 3.0)


def test_a_slow_coordinator_sets_the_pace() -> None:
    outcome = simulate(Fleet(num_actors=50, unit_seconds=0.1, answer_seconds=0.1), 200)
    assert outcome.wall_seconds == pytest.approx((50 + 200) * 0.1)  # 50 models loaded, 200 units done


def test_deaths_cost_what_renewal_theory_says() -> None:
    """Working and loading are begun anew after each death; a machine that loads may die too."""
    rate, unit, load, replace, num_units = 12 / 3600, 60.0, 90.0, 45.0, 20_000
    fleet = Fleet(num_actors=1, unit_seconds=unit, deaths_per_hour=12, replace_seconds=replace, load_seconds=load)
    outcome = simulate(fleet, num_units)
    tries = math.exp(rate * load)  # at loading, for each that ends well
    at_work = num_units * math.expm1(rate * unit) / rate
    boot = num_units * math.expm1(rate * unit) * (tries * replace + (tries - 1) / rate)
    assert outcome.wall_seconds == pytest.approx(at_work + boot, rel=0.03)
    assert outcome.seconds["boot"] == pytest.approx(boot, rel=0.05)
    assert outcome.num_deaths > 1.2 * outcome.num_broken_off


@pytest.mark.parametrize("seed", range(5))
def test_no_unit_is_lost_or_counted_twice_and_no_second_either(seed: int) -> None:
    fleet = Fleet(
        num_actors=5,
        unit_seconds=60,
        spread=0.3,
        load_seconds=20,
        deaths_per_hour=20,
        replace_seconds=30,
        failure_share=0.1,
        slow_share=0.2,
        answer_seconds=0.5,
        listing_seconds=0.01,
    )
    outcome = simulate(fleet, 500, seed)
    assert outcome.num_broken_off > 20
    assert outcome.num_failures > 20
    assert outcome.num_done + outcome.num_given_up == 500
    in_flight = outcome.num_begun - (outcome.num_done + outcome.num_broken_off + outcome.num_failures)
    assert in_flight == 0
    assert sum(outcome.seconds.values()) == pytest.approx(5 * outcome.wall_seconds)
    assert min(outcome.seconds.values()) >= 0
    assert outcome.overhead > 1


def test_a_look_at_the_store_holds_everybody_up_for_its_share_of_the_time() -> None:
    quiet = Fleet(num_actors=4, unit_seconds=1.0)
    looking = Fleet(num_actors=4, unit_seconds=1.0, listing_seconds=0.001)
    assert simulate(looking, 40_000).wall_seconds == pytest.approx(
        1.05 * simulate(quiet, 40_000).wall_seconds, rel=0.02
    )


def test_the_queue_has_its_own_clock_back() -> None:
    simulate(Fleet(num_actors=1, unit_seconds=1.0), 1)
    assert work_queue.time is time


def test_the_simulation_foretells_a_real_run_in_which_an_actor_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 5 %: to forget the loading would be 12 %. When Ray had another process is asked of that process."""
    unit, load, num_units = 0.4, 3.0, 45
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    killed_at: list[float] = []

    def kill(process: int) -> None:
        killed_at.append(time.monotonic())
        os.kill(process, signal.SIGKILL)

    options = PoolOptions(num_actors=2, num_cpus_per_actor=0.2, object_store_memory_bytes=100_000_000)
    with ActorPool(Sleeper, (str(tmp_path), load), options) as pool:
        first: set[int] = set()
        while len(first) < 2:
            first |= {process for _, process in pool.map("nap_here", [0.1] * 4)}
        started = time.monotonic()
        list(pool.map("nap_here", [unit] * 10))
        unit_seconds = (time.monotonic() - started) / 5  # with what a busy machine adds to a nap
        begun_before = (tmp_path / "begun").stat().st_size
        started = time.monotonic()
        threading.Timer(3.1, kill, [min(first)]).start()
        done = list(pool.map("nap_here", [unit] * num_units))
        seconds = time.monotonic() - started
        num_begun = (tmp_path / "begun").stat().st_size - begun_before
    [third] = {process for _, process in done} - first
    replaced_at = float((tmp_path / f"loads-{third}").read_text())
    away = replaced_at - killed_at[0]
    fleet = Fleet(num_actors=2, unit_seconds=unit_seconds, load_seconds=load, replace_seconds=away)
    lifetimes = itertools.chain([load + killed_at[0] - started], itertools.repeat(NEVER))
    foretold = simulate(fleet, num_units, lifetime=lambda: next(lifetimes))
    assert foretold.wall_seconds - load == pytest.approx(seconds, rel=0.05)
    assert len(done) == foretold.num_done == num_units
    assert num_begun == foretold.num_begun == num_units + 1
