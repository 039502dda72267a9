"""A pool of independent Ray actors to which units of work are streamed.

Lazy: Ray and the actors start with the first unit, so a run that finds all its work done starts neither. No rows
pass through here: units and results are small, the actors read from storage and publish to storage.

    with ActorPool(ShardScorer, (job,), PoolOptions()) as pool:
        for unit, receipt in pool.map("score", units):
            ...
"""

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tasks.actor_plan import PoolOptions
from tasks.ray_cluster import connect, disconnect
from tasks.work_queue import WorkQueue

if TYPE_CHECKING:
    from tasks.actor_crew import ActorCrew

__all__ = ["ActorPool", "PoolOptions"]

U = TypeVar("U")


class ActorPool:
    """Copies of one plain object, each in an actor of its own. The class must have a method `ping`."""

    def __init__(self, actor_class: type, actor_args: tuple[Any, ...], options: PoolOptions) -> None:
        self._actor_class = actor_class
        self._actor_args = actor_args
        self._options = options
        self._crew: ActorCrew | None = None
        self._has_connected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def map(self, method: str, units: Iterable[U]) -> Generator[tuple[U, Any], None, None]:
        """Call a method of the object with every unit; yields unit and result as they are finished, in any order.

        At most one unit per actor is in flight, and units are pulled as actors come free. Closing
        the iterator early leaves the units in flight undone as far as the caller can know.

        Raises:
            InputError, CheckpointError: from a unit or from the object's constructor, at once and as themselves.
            StorageError, CapacityError: the same, after `max_attempts`.
            FinfError: a unit kept raising anything else or kept killing its actors, or no actor is alive.
        """
        queue = WorkQueue(units)
        if queue.is_empty():
            return
        with closing(self._ready_crew().stream(method, queue)) as stream:
            yield from stream

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
            address, memory_bytes = self._options.ray_address, self._options.object_store_memory_bytes
            self._has_connected = connect(address, memory_bytes) or self._has_connected
            from tasks.actor_crew import ActorCrew  # imports Ray, whose environment is set by now

            self._crew = ActorCrew(self._actor_class, self._actor_args, self._options)
        return self._crew
