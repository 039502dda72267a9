"""A pool of independent Ray actors to which units of work are streamed.

Lazy: Ray and the actors start with the first unit, so a run that finds all its work done starts neither. No rows
pass through here: units and results are small, the actors read from storage and publish to storage.

    with ActorPool(ShardScorer, (job,), PoolOptions()) as pool:
        for unit, receipt in pool.map("score", units):
            ...
"""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from finf_core.errors import InputError
from tasks.actor_plan import PoolOptions
from tasks.budget import Budget
from tasks.orders import ClusterLostError, GivenUp, Orders
from tasks.ray_cluster import connect, disconnect
from tasks.told import Tell, Told
from tasks.work_queue import WorkQueue

if TYPE_CHECKING:
    from tasks.actor_crew import ActorCrew

__all__ = ["ActorPool", "GivenUp", "PoolOptions"]

U = TypeVar("U")

RECONNECT_SECONDS = 2.0  # between two attempts
MAX_LOSSES = 3  # of the cluster, without a finished unit in between


class ActorPool:
    """Copies of one plain object, each in an actor of its own. The class must have a method `ping`.

    Args:
        tell: hears, in one line each, of what went wrong and was mended.
        budget: counts the actors' hours, and ends what it does not cover.
    """

    def __init__(
        self,
        actor_class: type,
        actor_args: tuple[Any, ...],
        options: PoolOptions,
        tell: Tell = lambda line: None,
        budget: Budget | None = None,
    ) -> None:
        self._actor_class = actor_class
        self._actor_args = actor_args
        self._options = options
        self._tell = tell
        self._budget = budget or Budget()
        self._crew: ActorCrew | None = None
        self._has_connected = False  # and is to end it
        self._was_connected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None:  # else storage may be away, and nobody may wait for it
            self._budget.note()

    def map(
        self,
        method: str,
        units: Iterable[U],
        *,
        may_give_up: bool = False,
        after_deaths: Callable[[U, int], U] = lambda unit, _: unit,
    ) -> Generator[tuple[U, Any], None, None]:
        """Call a method of the object with every unit; yields unit and result as they are finished, in any order.

        At most one unit per actor is in flight, and units are pulled as actors come free. Closing
        the iterator early leaves the units in flight undone as far as the caller can know. A cluster that is lost is
        started, or looked for, again.

        Args:
            may_give_up: yield `GivenUp` for a unit that kept killing its actors, or kept raising what is not of finf
                or CapacityError, instead of raising.
            after_deaths: how a unit is done under which so many actors died.

        Raises:
            InputError, CheckpointError: from a unit or from the object's constructor, at once and as themselves.
            StorageError, CapacityError: the same, after `max_attempts` (and `max_storage_seconds`).
            FinfError: a unit kept raising anything else or kept killing its actors, or no actor is alive.
            BudgetReachedError: all units in flight are done, and no other was begun.
        """
        queue, orders = WorkQueue(self._budget.while_it_lasts(units)), Orders(method, may_give_up, after_deaths)
        num_losses = 0
        while not queue.is_empty():
            try:
                with closing(self._ready_crew().stream(orders, queue)) as stream:
                    for done in stream:
                        num_losses = 0
                        yield done
            except ClusterLostError as error:
                self.close()
                num_losses += 1
                if num_losses >= MAX_LOSSES:
                    raise
                self._tell(Told(f"{error}; starting or finding it again", "died"))
        self._budget.check()

    def close(self) -> None:
        """Kill the actors, and end Ray if this pool started it."""
        if self._crew is not None:
            self._crew.dismiss()
            self._crew = None
        if self._has_connected:
            disconnect()
            self._has_connected = False

    def _ready_crew(self) -> "ActorCrew":
        if self._crew is None:
            self._connect()
            from tasks.actor_crew import ActorCrew  # imports Ray, whose environment is set by now

            self._crew = ActorCrew(self._actor_class, self._actor_args, self._options, self._tell, self._budget)
        return self._crew

    def _connect(self) -> None:
        """A cluster that was there before may take a while to come back; one that never was is not waited for."""
        patience = self._options.patience_seconds if self._was_connected else 0
        deadline = time.monotonic() + patience
        while True:
            try:
                new = connect(self._options.ray_address, self._options.object_store_memory_bytes)
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_SECONDS)
            else:
                self._has_connected = new or self._has_connected
                self._was_connected = True
                return
