"""What a crew of actors is asked to do with every unit, and what it may answer instead of a result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finf_core.errors import FinfError

U = TypeVar("U")


class ClusterLostError(FinfError):
    """The head of the Ray cluster is gone; units in flight are back in their queue."""


@dataclass(frozen=True)
class GivenUp:
    """In place of a result: why no actor could do this unit."""

    reason: str


@dataclass(frozen=True)
class Orders(Generic[U]):
    method: str
    may_give_up: bool
    after_deaths: Callable[[U, int], U]  # how a unit is done under which so many actors died
