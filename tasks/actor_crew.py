"""A crew of Ray actors at work: who does what, who is dead, and whose fault a failure is.

    PARKED --2 s--> WAKING --> BUILDING --> IDLE <--> WORKING
       ^---------------a process died-----------------'

A dead actor (`RayActorError` and kin) is not the unit's fault: the unit goes back to the front and the actor is
parked, until it is awake and built again; only a unit under which actors died again and again is given up. An
exception (`RayTaskError`) is the unit's: retried after a pause if that can help, else raised as what it was in
the actor. Each actor has at most one call in flight, so that a death is never blamed on a bystander.
Storage that does not answer is nobody's fault: it is waited for by the clock, not by the number of attempts.

Import this module only when Ray is wanted: see `tasks.actor_pool`.
"""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from finf_core.errors import CheckpointError, FinfError, InputError, StorageError
from tasks.actor_host import ActorHost, NotBuiltError, versions
from tasks.actor_plan import PoolOptions, plan_actors
from tasks.budget import Budget
from tasks.orders import ClusterLostError, GivenUp, Orders
from tasks.ray_cluster import head_answers
from tasks.seat import ALIVE, Seat, State
from tasks.told import Tell, Told
from tasks.work_queue import Work, WorkQueue

U = TypeVar("U")

BACKOFF_SECONDS = 1.0  # before the second attempt at a unit, doubled before each further one
LONGEST_BACKOFF_SECONDS = 30.0
HEAD_PROBE_SECONDS = 5.0
HEAD_LOST_SECONDS = 15.0  # of silence at every look; after 60 Ray would end this process
MAX_DEATHS = 5  # of actors under one unit, or of one actor while it is built
POLL_SECONDS = 0.5
QUIET_SECONDS = 15.0  # without an actor, before it is said

ADVICE = "most often memory is short: try fewer actors, smaller batches"
HOPELESS = (InputError, CheckpointError)  # no retry can help


class ActorCrew:
    """The actors of one pool. Needs a connected Ray; their processes start at once, in the background."""

    def __init__(
        self,
        actor_class: type,
        actor_args: tuple[Any, ...],
        options: PoolOptions,
        tell: Tell,
        budget: Budget,
    ) -> None:
        self._build_args = (versions(), actor_class, actor_args)
        self._options = options
        self._tell = tell
        self._budget = budget
        budget.count(0)
        resources = ray.cluster_resources()
        node_cpus = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        self.plan = plan_actors(options, resources.get("CPU", 0), resources.get("GPU", 0), node_cpus)
        self.seats = [Seat(self._new_actor()) for _ in range(self.plan.num_actors)]
        self._last_alive = self._head_probed = time.monotonic()
        self._head_silent_since: float | None = None
        self._has_said_none_alive = False
        self._last_error = FinfError(
            f"the cluster found no place for {self.plan}: it has {resources.get('CPU', 0):g} CPUs and "
            f"{resources.get('GPU', 0):g} GPUs"
        )

    def stream(self, orders: Orders[U], queue: WorkQueue[U]) -> Generator[tuple[U, Any], None, None]:
        """Have every unit done; yields unit and result in the order in which they are finished."""
        if any(seat.state is State.WORKING for seat in self.seats):
            raise FinfError("the actors are at work for another map; finish or close it first")
        try:
            self._last_alive = time.monotonic()
            while any(seat.work for seat in self.seats) or not queue.is_empty():
                self._hand_out(orders, queue)
                if (seat := self._answered_seat()) and (done := self._settle(seat, orders, queue)):
                    self._hand_out(orders, queue)  # nobody idles while the caller looks at the result
                    yield done
                    self._last_alive = time.monotonic()  # however long the caller took
                self._budget.count(self._num_held())
                self._check_head(queue)
                self._check_alive()
        finally:
            for seat in self.seats:
                if seat.state is State.WORKING:
                    seat.start(State.LEFT, seat.call)

    def dismiss(self) -> None:
        """Kill the actors: what they publish is whole or not there."""
        self._budget.count(self._num_held())
        while self.seats:
            ray.kill(self.seats.pop().actor)

    def _num_held(self) -> int:
        """Actors that have a place on some machine."""
        return sum(seat.state in ALIVE for seat in self.seats)

    def _new_actor(self) -> Any:
        threads = str(self.plan.num_threads)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if not self.plan.num_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray would leave it all GPUs to see
        options = {
            "num_cpus": self.plan.num_cpus,
            "num_gpus": self.plan.num_gpus,
            "resources": dict(self._options.resources_per_actor),
            "max_restarts": -1,
            "max_task_retries": 0,  # Ray's own are used up before it knows that a node is lost
            "runtime_env": {"env_vars": environment},
        }
        return ray.remote(ActorHost).options(**options).remote()

    def _hand_out(self, orders: Orders[U], queue: WorkQueue[U]) -> None:
        """Give every idle actor a unit, and look after every parked one whose time has come."""
        for seat in self.seats:
            if seat.state is State.PARKED and seat.probe_at <= time.monotonic():
                seat.start(State.WAKING, seat.actor.wake.remote())
            if seat.state is State.IDLE and (work := queue.take()):
                unit = orders.after_deaths(work.unit, work.num_deaths)
                seat.start(State.WORKING, seat.actor.run.remote(orders.method, unit), work)

    def _answered_seat(self) -> Seat | None:
        """One whose call has come back, or None after `POLL_SECONDS`."""
        waiting = {seat.call: seat for seat in self.seats if seat.call is not None}
        if not waiting:
            time.sleep(POLL_SECONDS)
            return None
        ready, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
        return waiting[ready[0]] if ready else None

    def _settle(self, seat: Seat, orders: Orders[U], queue: WorkQueue[U]) -> tuple[U, Any] | None:
        """Take the answer of a call and decide what the actor does next; returns a unit that is done, or given up."""
        state, work, call = seat.state, seat.work, seat.call
        seat.rest(State.IDLE)
        try:
            result = ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, NotBuiltError):
                self._replace(seat, work, queue)
            elif state is State.WORKING:
                return self._unit_failed(work, error, orders, queue)
            elif state is State.BUILDING:
                self._build_failed(seat, self._options.max_attempts, _ours(error, "an actor cannot be built:"))
        except RayError as error:
            return self._died(seat, state, work, error, orders, queue)
        else:
            if state is State.WORKING:
                return work.unit, result
            self._is_well(seat, state)
        return None

    def _is_well(self, seat: Seat, state: State) -> None:
        if state is State.WAKING:
            seat.start(State.BUILDING, seat.actor.build.remote(*self._build_args))
        elif state is State.BUILDING:
            seat.num_failed_builds, seat.waits_since = 0, None

    def _unit_failed(
        self, work: Work[U], error: RayTaskError, orders: Orders[U], queue: WorkQueue[U]
    ) -> tuple[U, GivenUp] | None:
        work.num_failures += 1
        ours = _ours(error, f"{work} failed {work.num_failures} times, at last with")
        if isinstance(ours, HOPELESS):
            raise ours
        waits = self._waits_for_storage(work, ours)
        if work.num_failures >= self._options.max_attempts and not waits:
            return self._give_up(work, ours, orders)
        pause = min(BACKOFF_SECONDS * 2 ** (work.num_failures - 1), LONGEST_BACKOFF_SECONDS)
        then, event = ("waiting", "waits") if waits else (f"tried again in {pause:.0f} s", "failed")
        self._tell(Told(f"{ours}; {then}", event, unit=str(work)))
        queue.put_off(work, pause)
        return None

    def _died(
        self, seat: Seat, state: State, work: Work[U] | None, error: RayError, orders: Orders[U], queue: WorkQueue[U]
    ) -> tuple[U, GivenUp] | None:
        self._last_error = _ours(error, "no actor is alive:")
        given_up = None
        if work:
            work.num_deaths += 1
            line = f"an actor died at work ({type(error).__name__}); its unit goes to the next one"
            self._tell(Told(line, "died", unit=str(work)))
            if work.num_deaths >= MAX_DEATHS:
                many = f"{work}: {work.num_deaths} actors died while they worked on it ({ADVICE}):"
                given_up, work = self._give_up(work, _ours(error, many), orders), None
        self._replace(seat, work, queue)
        if state is State.BUILDING:
            many = f"an actor died {MAX_DEATHS} times while it was built ({ADVICE}):"
            self._build_failed(seat, MAX_DEATHS, _ours(error, many))
        return given_up

    def _give_up(self, work: Work[U], error: FinfError, orders: Orders[U]) -> tuple[U, GivenUp]:
        if not orders.may_give_up or isinstance(error, StorageError):
            raise error
        return work.unit, GivenUp(str(error))

    def _waits_for_storage(self, waiting: Work[U] | Seat, error: FinfError) -> bool:
        """Whether storage has not been away for too long, as far as this unit or actor has seen."""
        if not isinstance(error, StorageError):
            waiting.waits_since = None
            return False
        waiting.waits_since = waiting.waits_since or time.monotonic()
        return time.monotonic() - waiting.waits_since <= self._options.max_storage_seconds

    def _replace(self, seat: Seat, work: Work[U] | None, queue: WorkQueue[U]) -> None:
        """Wait for Ray to restart the process; its unit goes to whoever is free first."""
        seat.park()
        if work:
            queue.put_back(work)

    def _build_failed(self, seat: Seat, limit: int, error: FinfError) -> None:
        if isinstance(error, HOPELESS):
            raise error
        seat.park()
        self._last_error = error
        seat.num_failed_builds += 1
        if seat.num_failed_builds >= limit and not self._waits_for_storage(seat, error):
            seat.rest(State.RETIRED)
            self._tell(Told(f"one actor of {self.plan.num_actors} is given up: {error}", "retired"))

    def _check_head(self, queue: WorkQueue[U]) -> None:
        """Raises ClusterLostError once the head has been silent for long; units in flight go back first."""
        if (now := time.monotonic()) - self._head_probed < HEAD_PROBE_SECONDS:
            return
        self._head_probed = now
        if head_answers():
            self._head_silent_since = None
            return
        self._head_silent_since = self._head_silent_since or now
        if now - self._head_silent_since > HEAD_LOST_SECONDS:
            for seat in self.seats:
                if seat.state is State.WORKING:
                    queue.put_back(seat.work)
                    seat.rest(State.LEFT)
            raise ClusterLostError("the head of the Ray cluster does not answer any more")

    def _check_alive(self) -> None:
        """Raises why no actor works, once none can be hoped for."""
        states = {seat.state for seat in self.seats}
        if not states.isdisjoint(ALIVE):
            self._last_alive, self._has_said_none_alive = time.monotonic(), False
            return
        dead_seconds, patience_seconds = time.monotonic() - self._last_alive, self._options.patience_seconds
        if states == {State.RETIRED} or dead_seconds > patience_seconds:
            raise self._last_error
        if dead_seconds > QUIET_SECONDS and not self._has_said_none_alive:
            self._has_said_none_alive = True
            self._tell(f"{self._last_error}; waiting, {patience_seconds / 60:.0f} minutes at most")


def _ours(error: RayError, what: str) -> FinfError:
    """What was raised in the actor if it is one of ours, else one line that says what and why. Caused by `error`."""
    origin = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(origin, FinfError):
        ours = origin
    else:
        lines = str(origin).splitlines() or [""]
        ours = FinfError(f"{what} {type(origin).__name__}: {lines[0][:300]}")
    ours.__cause__ = error
    return ours
