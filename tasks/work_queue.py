"""The units that wait for an actor: pulled from their source one at a time, put back in front, or put off."""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

U = TypeVar("U")


@dataclass(eq=False)
class Work(Generic[U]):
    """A unit and what has gone wrong with it so far."""

    unit: U
    num_failures: int = 0  # its own: it raised
    num_deaths: int = 0  # actors that died while they worked on it
    waits_since: float | None = None  # for storage that does not answer

    def __str__(self) -> str:
        text = repr(self.unit)
        return text if len(text) <= 200 else f"{text[:200]}…"


class WorkQueue(Generic[U]):
    """Holds no more of the source than was put back or put off, and one unit to see whether there is another."""

    def __init__(self, units: Iterable[U]) -> None:
        self._source = iter(units)
        self._front: deque[Work[U]] = deque()
        self._put_off: list[tuple[float, int, Work[U]]] = []  # due time, order
        self._order = itertools.count()

    def take(self) -> Work[U] | None:
        """The next unit that may be done now: those put back, those put off and due, new ones."""
        if self._front:
            return self._front.popleft()
        if self._put_off and self._put_off[0][0] <= time.monotonic():
            return heapq.heappop(self._put_off)[2]
        for unit in self._source:
            return Work(unit)
        return None

    def put_back(self, work: Work[U]) -> None:
        self._front.appendleft(work)

    def put_off(self, work: Work[U], seconds: float) -> None:
        heapq.heappush(self._put_off, (time.monotonic() + seconds, next(self._order), work))

    def is_empty(self) -> bool:
        """Nothing now, nothing later."""
        if self._front or self._put_off:
            return False
        if (work := self.take()) is None:
            return True
        self.put_back(work)
        return False
