"""A scan on a fleet of machines that die, in simulated time. No Ray, no storage, no model.

The queue of units is the real one (`tasks.work_queue`) on a simulated clock. Deaths, probes, pauses and looks at the
store follow `tasks.actor_crew` and `tasks.score_shards`, with their constants. The process that hands out units takes
one answer at a time. A machine may die at any moment: while its model is loaded, at work, or idle (which is noticed, as
in the real crew, with the next unit).

Not simulated: many machines that die at once, actors retired after five deaths while they are built, the
stages before and after scoring.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tasks import work_queue
from tasks.actor_crew import BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, MAX_DEATHS
from tasks.score_shards import LOOK_SECONDS, LOOK_SHARE
from tasks.seat import PROBE_SECONDS
from tasks.work_queue import Work, WorkQueue

HOUR_SECONDS = 3600
KINDS = ("useful", "slow", "lost", "boot", "coordinator", "idle")
NEVER = float("inf")

Act = Callable[[float, int, Work[int] | None], None]  # when it was, of which seat, at which unit


@dataclass(frozen=True, kw_only=True)
class Fleet:
    num_actors: int  # one on each machine
    unit_seconds: float  # on average
    spread: float = 0.0  # a unit takes up to this share more or less
    load_seconds: float = 0.0  # of the model, on a machine that is there
    deaths_per_hour: float = 0.0  # of one machine
    replace_seconds: float = 0.0  # from a death until there is another machine
    failure_share: float = 0.0  # of units: storage was away for longer than an actor waits
    slow_share: float = 0.0  # of actors
    slow_factor: float = 2.0
    answer_seconds: float = 0.0  # of the process that hands out units, for each answer
    listing_seconds: float = 0.0  # of the same process, for each finished unit, when it looks at the store


@dataclass
class Outcome:
    """`seconds` are those of all actors, by `KINDS`; together actors x wall."""

    wall_seconds: float = 0.0
    num_done: int = 0
    num_given_up: int = 0
    num_begun: int = 0
    num_deaths: int = 0
    num_broken_off: int = 0  # units under which a machine died
    num_failures: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))

    @property
    def overhead(self) -> float:
        """What is paid over what is useful."""
        return sum(self.seconds.values()) / self.seconds["useful"]

    def share(self, what: str) -> float:
        return self.seconds[what] / sum(self.seconds.values())


def simulate(fleet: Fleet, num_units: int, seed: int = 0, lifetime: Callable[[], float] | None = None) -> Outcome:
    """Args:
    lifetime: seconds from the arrival of each machine to its death, in the order of their arrival; default: drawn.
    """
    with _simulated_time() as clock:
        return _Simulation(fleet, num_units, clock, random.Random(seed), lifetime).run()


class _Clock:
    """Stands where `time` would in the queue."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def _simulated_time() -> Iterator[_Clock]:
    clock, real = _Clock(), vars(work_queue)["time"]
    vars(work_queue)["time"] = clock
    try:
        yield clock
    finally:
        vars(work_queue)["time"] = real


class _Simulation:
    def __init__(
        self, fleet: Fleet, num_units: int, clock: _Clock, draw: random.Random, lifetime: Callable[[], float] | None
    ) -> None:
        self.fleet, self.num_units, self.clock, self.draw = fleet, num_units, clock, draw
        self.lifetime = lifetime or self._drawn_lifetime
        self.queue, self.outcome = WorkQueue(self._units()), Outcome()
        self.events: list[tuple[float, int, Act, int, Work[int] | None]] = []
        self.order = itertools.count()
        self.idle: deque[int] = deque()
        self.begun, self.dies_at = [0.0] * fleet.num_actors, [NEVER] * fleet.num_actors
        self.num_slow = round(fleet.slow_share * fleet.num_actors)

    def run(self) -> Outcome:
        for seat in range(self.fleet.num_actors):
            self._boot(seat, arrives=0.0)
        found = self.outcome
        while found.num_done + found.num_given_up < self.num_units:
            self._next_answer()
            self._hand_out()
        found.wall_seconds = self.clock.now
        found.seconds["idle"] = self.fleet.num_actors * self.clock.now - sum(found.seconds.values())
        return found

    def _units(self) -> Iterator[int]:
        """As `tasks.score_shards.pending_shares`, which looks at the store now and then, and nobody works for it."""
        look_at = LOOK_SECONDS
        for unit in range(self.num_units):
            if self.clock.now > look_at:
                seconds = self.fleet.listing_seconds * self.outcome.num_done
                self.clock.now += seconds
                look_at = self.clock.now + max(LOOK_SECONDS, seconds / LOOK_SHARE)
            yield unit

    def _next_answer(self) -> None:
        at, _, act, seat, work = heapq.heappop(self.events)
        self.clock.now = max(self.clock.now, at)
        if act != self._due:
            self.clock.now += self.fleet.answer_seconds
            self.outcome.seconds["coordinator"] += self.clock.now - at
        act(at, seat, work)

    def _hand_out(self) -> None:
        before = self.clock.now
        while self.idle and (work := self.queue.take()):
            self.outcome.seconds["coordinator"] += self.clock.now - before
            self._begin(self.idle.popleft(), work)

    def _begin(self, seat: int, work: Work[int]) -> None:
        self.outcome.num_begun += 1
        fails = self.draw.random() < self.fleet.failure_share
        seconds = self.fleet.unit_seconds * (1 + self.fleet.spread * self.draw.uniform(-1, 1))
        self._until(self.clock.now + seconds * self._factor(seat), self._failed if fails else self._done, seat, work)

    def _boot(self, seat: int, arrives: float) -> None:
        self.dies_at[seat] = arrives + self.lifetime()
        self._until(arrives + self.fleet.load_seconds, self._loaded, seat, None)

    def _until(self, end: float, act: Act, seat: int, work: Work[int] | None) -> None:
        """The seat is busy till then, unless its machine dies before."""
        self.begun[seat] = self.clock.now
        if self.dies_at[seat] < end:
            end, act = max(self.dies_at[seat], self.clock.now), self._died
        self._at(end, act, seat, work)

    def _at(self, seconds: float, act: Act, seat: int, work: Work[int] | None = None) -> None:
        heapq.heappush(self.events, (seconds, next(self.order), act, seat, work))

    def _loaded(self, at: float, seat: int, _: Work[int] | None) -> None:
        self.outcome.seconds["boot"] += at - self.begun[seat]
        self.idle.append(seat)

    def _done(self, at: float, seat: int, _: Work[int] | None) -> None:
        seconds = at - self.begun[seat]
        self.outcome.num_done += 1
        self.outcome.seconds["useful"] += seconds / self._factor(seat)
        self.outcome.seconds["slow"] += seconds - seconds / self._factor(seat)
        self.idle.append(seat)

    def _failed(self, at: float, seat: int, work: Work[int] | None) -> None:
        assert work
        self.outcome.num_failures += 1
        self.outcome.seconds["lost"] += at - self.begun[seat]
        work.num_failures += 1
        pause = min(BACKOFF_SECONDS * 2 ** (work.num_failures - 1), LONGEST_BACKOFF_SECONDS)
        self.queue.put_off(work, pause)
        self._at(self.clock.now + pause, self._due, seat)
        self.idle.append(seat)

    def _due(self, at: float, seat: int, _: Work[int] | None) -> None:
        """Some unit's pause is over: the crew, which looks twice a second, finds it in the queue."""

    def _died(self, at: float, seat: int, work: Work[int] | None) -> None:
        self.outcome.num_deaths += 1
        self.outcome.seconds["lost" if work else "boot"] += at - self.begun[seat]
        if work:
            self.outcome.num_broken_off += 1
            work.num_deaths += 1
            if work.num_deaths < MAX_DEATHS:
                self.queue.put_back(work)
            else:
                self.outcome.num_given_up += 1
        self._boot(seat, max(at + self.fleet.replace_seconds, self.clock.now + PROBE_SECONDS))

    def _factor(self, seat: int) -> float:
        return self.fleet.slow_factor if seat < self.num_slow else 1.0

    def _drawn_lifetime(self) -> float:
        rate = self.fleet.deaths_per_hour
        return self.draw.expovariate(rate / HOUR_SECONDS) if rate else NEVER
