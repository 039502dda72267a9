"""What a run may cost: hours and money. A run whose budget is used up finishes what is in flight, and stops.

Each process keeps a note of its actors' hours beside the run, `spending/….json`; all of them together are what the run
has cost, however often it was broken off and whoever else works at it.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from finf_core.errors import FinfError, InputError
from tasks import storage

U = TypeVar("U")

NOTE_SECONDS = 30.0  # between two notes, and two looks at those of others
HOUR_SECONDS = 3600


class BudgetReachedError(FinfError):
    """The run has stopped because it may not cost more; run again, it goes on."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    max_hours: float | None = None  # of this process
    max_cost: float | None = None  # of the run, all its processes together
    price_per_hour: float | None = None  # of one actor: of its GPU, or of its share of a machine

    def __post_init__(self) -> None:
        for name in ("max_hours", "max_cost", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} = {value}: want a positive number")
        if self.max_cost is not None and self.price_per_hour is None:
            raise InputError("max_cost wants price_per_hour, what one actor costs")


@dataclass(frozen=True)
class Spending:
    actor_hours: float
    cost: float | None  # None: some of these hours have no price


class Budget:
    """Counts the hours of actors; knows when it is used up.

    Args:
        folder: of the notes; None: nothing is kept.
    """

    def __init__(
        self,
        options: BudgetOptions | None = None,
        folder: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or BudgetOptions()
        self._folder, self._clock = folder, clock
        self._name = f"{secrets.token_hex(8)}.json"
        self._started = self._counted = clock()
        self._noted = -float("inf")
        self._actor_hours = 0.0
        self._others = Spending(0.0, 0.0)
        self._is_cut = False

    def count(self, num_actors: int) -> None:
        """So many actors were held since the last call."""
        now = self._clock()
        self._actor_hours += num_actors * (now - self._counted) / HOUR_SECONDS
        self._counted = now
        if now - self._noted >= NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Write down what was spent, and look at what others spent."""
        self._noted = self._clock()
        if self._folder is None:
            return
        if self._actor_hours:
            mine = {"actor_hours": self._actor_hours, "price_per_hour": self.options.price_per_hour}
            storage.publish_bytes(storage.join(self._folder, self._name), json.dumps(mine).encode())
        self._others = read_spending(self._folder, without=self._name)

    @property
    def spent(self) -> Spending:
        price = self.options.price_per_hour
        others = self._others.cost
        cost = None if price is None or others is None else others + price * self._actor_hours
        return Spending(self._others.actor_hours + self._actor_hours, cost)

    def reason_to_stop(self) -> str | None:
        hours, limits = (self._clock() - self._started) / HOUR_SECONDS, self.options
        if limits.max_hours is not None and hours >= limits.max_hours:
            return f"{hours:.2f} of {limits.max_hours:g} hours"
        if limits.max_cost is None:
            return None
        if self.spent.cost is None:
            return "earlier hours of this run have no price, so max_cost cannot be kept"
        return f"{self.spent.cost:.2f} of {limits.max_cost:g}" if self.spent.cost >= limits.max_cost else None

    def while_it_lasts(self, units: Iterable[U]) -> Iterator[U]:
        """The units, as long as another one may be begun."""
        for unit in units:
            if self.reason_to_stop():
                self._is_cut = True
                return
            yield unit

    def check(self) -> None:
        """Raises BudgetReachedError: some units were not begun."""
        if self._is_cut:
            self.note()
            raise BudgetReachedError(
                f"the budget is used up ({self.reason_to_stop()}); what is finished is kept: run again to go on"
            )


def read_spending(folder: str, without: str = "") -> Spending:
    """The sum of all notes.

    Raises:
        InputError: one of them is none of ours.
    """
    notes = [_read_note(storage.join(folder, name)) for name in sorted(storage.list_names(folder) - {without})]
    costs = [None if price is None else hours * price for hours, price in notes]
    known = [cost for cost in costs if cost is not None]
    return Spending(sum(hours for hours, _ in notes), sum(known) if len(known) == len(costs) else None)


def _read_note(uri: str) -> tuple[float, float | None]:
    """Actor hours, and their price."""
    try:
        note = json.loads(storage.read_bytes(uri))
        price = note["price_per_hour"]
        return float(note["actor_hours"]), None if price is None else float(price)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{uri}: no note of what a run has spent; delete it") from error
