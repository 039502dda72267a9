"""A bounded pool of independent Ray actors that streams units of work.

Nothing can deadlock: no actor waits for another. A lost actor costs the unit it was on, and that
unit goes back to the front. Ray's own retries are off: they lose work when a node goes
(they are used up before the node is declared dead).
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from finf_core.errors import CapacityError, CheckpointError, FinfError, InputError

PROBE_SECONDS = 2.0  # between two pings of an actor that died
GIVE_UP_SECONDS = 120.0  # with every actor gone
DEATHS_PER_UNIT = 5  # actors that may die on the same unit before it is called poison
BACKOFF_SECONDS = 1.0  # doubled with every attempt
NEVER_RETRIED = (InputError, CheckpointError)

U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    num_actors: int | None = None  # None: one per GPU, else two where there are two cores
    ray_address: str | None = None  # None: a local Ray for this pool
    object_store_bytes: int = 200 << 20  # receipts are all that travels
    max_attempts: int = 3  # per unit, when storage stutters


class _Shell:
    """The actor: makes its worker with the first unit, so that a failing constructor is the unit's own error."""

    def __init__(self, worker_class: type, args: tuple[Any, ...]) -> None:
        self.worker_class, self.args = worker_class, args
        self.worker: Any = None

    def ping(self) -> None:
        """Answer, as a sign of life."""

    def call(self, method: str, unit: Any) -> Any:
        if self.worker is None:
            self.worker = self.worker_class(*self.args)
        return getattr(self.worker, method)(unit)


@dataclass(eq=False)
class _Work(Generic[U]):
    unit: U
    attempts: int = 0
    deaths: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class _Round(Generic[U]):
    """One `map`: what waits, what runs, and which actors are parked."""

    source: Iterator[U]
    waiting: deque[_Work[U]] = field(default_factory=deque)
    running: dict[Any, tuple[Any, _Work[U]]] = field(default_factory=dict)  # ref -> actor, work

    def next_work(self) -> _Work[U] | None:
        for work in list(self.waiting):
            if work.not_before <= time.monotonic():
                self.waiting.remove(work)
                return work
        return next((_Work(unit) for unit in self.source), None)


class ActorPool:
    """Lazy: Ray and the actors start with the first unit, so a run served from cache never starts them."""

    def __init__(self, worker_class: type, worker_args: tuple[Any, ...], options: PoolOptions) -> None:
        self.worker_class, self.worker_args, self.options = worker_class, worker_args, options
        self.actors: list[Any] = []
        self.idle: list[Any] = []
        self.parked: dict[Any, float] = {}  # actor -> when to ping it
        self.pings: dict[Any, Any] = {}  # ref -> actor
        self.started_ray = False

    def __enter__(self) -> "ActorPool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            ray.kill(actor)
        if self.started_ray:
            ray.shutdown()
        self.actors, self.idle, self.started_ray = [], [], False

    def map(self, method: str, units: Iterable[U]) -> Iterator[tuple[U, Any]]:
        """Call `method(unit)` on some actor for each unit; results come as they are ready.

        Raises:
            InputError, CheckpointError: as the worker raised it, at once.
            FinfError: a unit failed `max_attempts` times, or killed five actors.
            CapacityError: no actor was left for two minutes.
        """
        round_ = _Round(iter(units))
        last_life = time.monotonic()
        while True:
            self._submit(method, round_)
            if not round_.running and not round_.waiting:
                return
            for ref in self._wait(round_):
                last_life = time.monotonic()
                if ref in self.pings:
                    self._hear_ping(ref)
                else:
                    yield from self._collect(round_, ref)
            if not self.idle and not round_.running and time.monotonic() - last_life > GIVE_UP_SECONDS:
                raise CapacityError(f"no actor has answered for {GIVE_UP_SECONDS:.0f} s; look at the Ray cluster")

    def _submit(self, method: str, round_: _Round[U]) -> None:
        """Give every idle actor a unit, while there are any."""
        while self.idle or not self.actors:
            work = round_.next_work()
            if work is None:
                return
            if not self.actors:
                self._start()
            actor = self.idle.pop()
            round_.running[actor.call.remote(method, work.unit)] = (actor, work)

    def _wait(self, round_: _Round[U]) -> list[Any]:
        """References that are ready, or after a second none: parked actors and late retries get a look then."""
        now = time.monotonic()
        for actor in [actor for actor, due in self.parked.items() if due <= now]:
            del self.parked[actor]
            self.pings[actor.ping.remote()] = actor
        refs = [*round_.running, *self.pings]
        if not refs:
            time.sleep(0.05)
            return []
        return list(ray.wait(refs, timeout=1.0)[0])

    def _hear_ping(self, ref: Any) -> None:
        actor = self.pings.pop(ref)
        try:
            ray.get(ref)
            self.idle.append(actor)
        except RayActorError:
            self._park(actor)

    def _park(self, actor: Any) -> None:
        self.parked[actor] = time.monotonic() + PROBE_SECONDS

    def _collect(self, round_: _Round[U], ref: Any) -> Iterator[tuple[U, Any]]:
        actor, work = round_.running.pop(ref)
        try:
            result = ray.get(ref)
        except RayActorError as error:
            self._park(actor)
            work.deaths += 1
            if work.deaths >= DEATHS_PER_UNIT:
                raise FinfError(f"{work.unit}: {DEATHS_PER_UNIT} actors died on it; it is poison") from error
            round_.waiting.appendleft(work)
        except RayTaskError as error:
            self.idle.append(actor)
            self._retry(round_, work, error)
        else:
            self.idle.append(actor)
            yield work.unit, result

    def _retry(self, round_: _Round[U], work: _Work[U], error: RayTaskError) -> None:
        """Put the unit back for later, or raise what the worker raised."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        work.attempts += 1
        if isinstance(cause, NEVER_RETRIED) or (
            work.attempts >= self.options.max_attempts and isinstance(cause, FinfError)
        ):
            raise cause
        if work.attempts >= self.options.max_attempts:
            raise FinfError(f"{work.unit}: failed {work.attempts} times: {type(cause).__name__}: {cause}") from error
        work.not_before = time.monotonic() + BACKOFF_SECONDS * 2 ** (work.attempts - 1)
        round_.waiting.append(work)

    def _start(self) -> None:
        self._connect()
        num_cpus, num_gpus = (int(ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU"))
        num_actors = self.options.num_actors or num_gpus or min(2, num_cpus)
        # Ray gives an actor as many torch threads as CPUs (OMP_NUM_THREADS); together they fill the machine
        cpus_each = max(1, num_cpus // num_actors) if num_actors <= num_cpus else num_cpus / num_actors
        remote_class = ray.remote(
            num_cpus=cpus_each, num_gpus=num_gpus / num_actors, max_restarts=-1, max_task_retries=0
        )(_Shell)
        self.actors = [remote_class.remote(self.worker_class, self.worker_args) for _ in range(num_actors)]
        self.idle = list(self.actors)

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        settings: dict[str, Any] = {"address": self.options.ray_address}
        if self.options.ray_address in (None, "local"):
            object_store_bytes = self.options.object_store_bytes
            settings = {"address": "local", "include_dashboard": False, "object_store_memory": object_store_bytes}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
        self.started_ray = True
