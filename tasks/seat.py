"""One actor of a crew: its state, and the call that it owes us an answer to."""

import enum
import time
from dataclasses import dataclass
from typing import Any

PROBE_SECONDS = 2.0  # between the death of an actor and the next look at it


class State(enum.Enum):
    PARKED = enum.auto()
    WAKING = enum.auto()
    BUILDING = enum.auto()
    IDLE = enum.auto()
    WORKING = enum.auto()
    LEFT = enum.auto()  # at work for a caller who has gone
    RETIRED = enum.auto()


ALIVE = {State.BUILDING, State.IDLE, State.WORKING, State.LEFT}


@dataclass(eq=False)
class Seat:
    actor: Any
    state: State = State.PARKED
    probe_at: float = 0.0
    call: Any = None
    work: Any = None
    num_failed_builds: int = 0
    waits_since: float | None = None  # for storage that is away while it is built

    def start(self, state: State, call: Any, work: Any = None) -> None:
        self.state, self.call, self.work = state, call, work

    def rest(self, state: State) -> None:
        self.state, self.call, self.work = state, None, None

    def park(self) -> None:
        self.rest(State.PARKED)
        self.probe_at = time.monotonic() + PROBE_SECONDS
