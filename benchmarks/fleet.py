"""A scan on a fleet of spot GPUs, simulated: the real queue of units, simulated time for all work.

    python -m benchmarks.fleet [--units 100000] [--actors 8 64 512] [--unit-seconds 30] [--price 2.25] [--json]

The queue is `tasks.work_queue.WorkQueue` on a simulated clock; deaths, probes and pauses follow `tasks.actor_crew`. The
coordinator is one server: each answer costs it `coordinator_ms`, measured before by handing real units over and naming
them (`calibrate`; without Ray, so a lower bound). The cost sheet is a **projection** from throughput that was measured
on one H100 (docs/PERFORMANCE.md, "On a GPU"); storage requests and updates are not in it.
"""

import argparse
import heapq
import itertools
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from finf_core.spec import StrategySpec
from finf_core.strategy import Counts, rows_to_keep, strategy_costs
from tasks import work_queue
from tasks.actor_crew import BACKOFF_SECONDS, MAX_DEATHS
from tasks.corpus import Unit
from tasks.seat import PROBE_SECONDS
from tasks.work_queue import Work, WorkQueue

TOKENS_PER_SECOND = {"1B": 151_000, "7B": 29_000}  # measured, one H100, compiled: docs/PERFORMANCE.md
NO_MODEL = "70B: not possible today: an actor holds a model on one GPU, and 140 GB in bfloat16 do not fit"
FIRST_PASS = 1.6  # one_pass in forward passes: docs/PERFORMANCE.md, "Cost sheet"
ROW_TOKENS = 1_000
LISTED = 1_000  # keys in one answer of S3's LIST


@dataclass(frozen=True, kw_only=True)
class Fleet:
    num_actors: int
    unit_seconds: float
    deaths_per_hour: float = 0.0  # of one actor
    replace_seconds: float = 0.0  # until there is another machine
    load_seconds: float = 0.0  # of the model
    failure_share: float = 0.0  # of units: storage failed for longer than the actor waits
    slow_share: float = 0.0  # of actors
    slow_factor: float = 2.0
    coordinator_seconds: float = 0.0  # for each answer


@dataclass
class Outcome:
    wall_seconds: float = 0.0
    num_done: int = 0
    num_given_up: int = 0
    num_begun: int = 0
    num_deaths: int = 0
    num_failures: int = 0
    useful_seconds: float = 0.0
    lost_seconds: float = 0.0  # work that a death or a failure undid
    boot_seconds: float = 0.0
    coordinator_wait_seconds: float = 0.0


class Clock:
    """Stands where `time` would in the queue."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def simulated_time() -> Iterator[Clock]:
    clock, real = Clock(), work_queue.time
    work_queue.time = clock  # type: ignore[assignment]
    try:
        yield clock
    finally:
        work_queue.time = real


class Simulation:
    def __init__(self, fleet: Fleet, num_units: int, clock: Clock, seed: int = 0) -> None:
        self.fleet, self.clock, self.draw = fleet, clock, random.Random(seed)
        self.queue, self.outcome = WorkQueue(range(num_units)), Outcome()
        self._events: list[tuple[float, int, int, str, Any]] = []
        self._order = itertools.count()
        self._idle: list[int] = []
        self._free_at = 0.0
        num_slow = round(fleet.slow_share * fleet.num_actors)
        self._factor = [fleet.slow_factor] * num_slow + [1.0] * (fleet.num_actors - num_slow)

    def run(self) -> Outcome:
        for seat in range(self.fleet.num_actors):
            self._boot(seat, self.fleet.load_seconds)
        while self._events:
            self.clock.now, _, seat, kind, what = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(seat, what)
            self._hand_out()
            if self.outcome.num_done + self.outcome.num_given_up and self.queue.is_empty() and not self._at_work:
                break
        self.outcome.wall_seconds = max(self.clock.now, self._free_at)
        return self.outcome

    @property
    def _at_work(self) -> bool:
        return self.outcome.num_begun > (self.outcome.num_done + self.outcome.num_deaths + self.outcome.num_failures)

    def _at(self, seconds: float, seat: int, kind: str, what: Any = None) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), seat, kind, what))

    def _boot(self, seat: int, seconds: float) -> None:
        self.outcome.boot_seconds += seconds
        self._at(self.clock.now + seconds, seat, "ready")

    def _ready(self, seat: int, _: Any) -> None:
        self._idle.append(seat)

    def _due(self, seat: int, _: Any) -> None:
        """Some unit's pause is over."""

    def _done(self, seat: int, work: Work[int]) -> None:
        self.outcome.num_done += 1
        self.outcome.useful_seconds += self.fleet.unit_seconds * self._factor[seat]
        self._idle.append(seat)

    def _failed(self, seat: int, work: Work[int]) -> None:
        self.outcome.num_failures += 1
        self.outcome.lost_seconds += self.fleet.unit_seconds * self._factor[seat]
        work.num_failures += 1
        self.queue.put_off(work, BACKOFF_SECONDS)
        self._at(self.clock.now + BACKOFF_SECONDS, seat, "due")
        self._idle.append(seat)

    def _died(self, seat: int, work_and_seconds: tuple[Work[int], float]) -> None:
        work, seconds = work_and_seconds
        self.outcome.num_deaths += 1
        self.outcome.lost_seconds += seconds
        work.num_deaths += 1
        if work.num_deaths >= MAX_DEATHS:
            self.outcome.num_given_up += 1
        else:
            self.queue.put_back(work)
        self._boot(seat, PROBE_SECONDS + self.fleet.replace_seconds + self.fleet.load_seconds)

    def _hand_out(self) -> None:
        while self._idle and (work := self.queue.take()):
            self._begin(self._idle.pop(0), work)

    def _begin(self, seat: int, work: Work[int]) -> None:
        fleet, now = self.fleet, self.clock.now
        self._free_at = max(now, self._free_at) + fleet.coordinator_seconds
        begun = self._free_at
        self.outcome.num_begun += 1
        self.outcome.coordinator_wait_seconds += begun - now
        seconds = fleet.unit_seconds * self._factor[seat]
        until_death = self.draw.expovariate(fleet.deaths_per_hour / 3600) if fleet.deaths_per_hour else float("inf")
        if until_death < seconds:
            self._at(begun + until_death, seat, "died", (work, until_death))
        elif self.draw.random() < fleet.failure_share:
            self._at(begun + seconds, seat, "failed", work)
        else:
            self._at(begun + seconds, seat, "done", work)


def simulate(fleet: Fleet, num_units: int, seed: int = 0) -> Outcome:
    with simulated_time() as clock:
        return Simulation(fleet, num_units, clock, seed).run()


def calibrate(num_units: int) -> dict[str, float]:
    """Seconds a unit of what the coordinator does with it, without Ray and storage; memory of the names it holds."""
    import psutil  # type: ignore[import-untyped]

    process = psutil.Process()
    before, started = process.memory_info().rss, time.perf_counter()
    names, queue = set[str](), WorkQueue(_units(num_units))
    while work := queue.take():
        names.add(work.unit.name("0" * 64))
    seconds = time.perf_counter() - started
    return {
        "num_units": num_units,
        "name_and_queue_seconds_per_unit": seconds / num_units,
        "held_bytes_per_unit": (process.memory_info().rss - before) / len(names),
    }


def _units(num_units: int) -> Iterator[Unit]:
    for number in range(num_units):
        yield Unit(f"s3://corpus/shard-{number:08d}.parquet", 1_000_000, "0" * 32, 0, 1, 0, 128)


def gpu_hours(model: str, num_tokens: int, num_queries: int, kind: str) -> float:
    """A projection: forward equivalents over measured throughput."""
    num_rows = num_tokens // ROW_TOKENS
    counts = Counts(num_rows, num_queries, rows_to_keep(StrategySpec(), 20, num_rows, num_queries), 1.0, FIRST_PASS)
    [cost] = [each for each in strategy_costs(StrategySpec(), counts) if each.kind == kind]
    return cost.forward_equivalents * num_tokens / TOKENS_PER_SECOND[model] / 3600


def cost_sheet(price: float, overhead: float) -> list[dict[str, Any]]:
    lines = []
    sizes = {"1 B": 10**9, "10 B": 10**10, "1 T": 10**12}
    for (name, tokens), model, queries, kind in itertools.product(
        sizes.items(), TOKENS_PER_SECOND, (164, 10_000), ("one_pass", "every_query")
    ):
        hours = gpu_hours(model, tokens, queries, kind) * overhead
        walls = {f"wall_hours_{gpus}": hours / gpus for gpus in (64, 512)}
        lines.append(
            {"tokens": name, "model": model, "queries": queries, "strategy": kind, "gpu_hours": hours}
            | walls
            | {"dollars": hours * price}
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--actors", type=int, nargs="+", default=(8, 64, 512))
    parser.add_argument("--unit-seconds", type=float, default=30.0)
    parser.add_argument("--coordinator-ms", type=float, default=4.1, help="for each unit: docs/PERFORMANCE.md, Growth")
    parser.add_argument("--price", type=float, default=2.25, help="dollars for an hour of one spot H100")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = report(arguments)
    print(json.dumps(found, indent=None if arguments.json else 2))


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    runs = []
    for num_actors, rate in itertools.product(arguments.actors, (0.002, 0.01, 0.05)):
        fleet = Fleet(
            num_actors=num_actors,
            unit_seconds=arguments.unit_seconds,
            deaths_per_hour=rate,
            replace_seconds=480,
            load_seconds=120,
            failure_share=1e-5,
            slow_share=0.02,
            coordinator_seconds=arguments.coordinator_ms / 1000,
        )
        outcome = simulate(fleet, arguments.units)
        held = outcome.wall_seconds * num_actors
        runs.append(asdict(fleet) | asdict(outcome) | {"overhead": held / outcome.useful_seconds})
    return {
        "calibration": calibrate(arguments.units),
        "runs": runs,
        "list_requests": -(-arguments.units // LISTED),
        "cost_sheet_is_a_projection": cost_sheet(arguments.price, max(run["overhead"] for run in runs)),
        "not_possible": NO_MODEL,
    }


if __name__ == "__main__":
    main()
