"""How far a stage is and how fast it goes; who shows it (terminal, Prefect) is not known here."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A snapshot. Rates count what this process did, not what it found done."""

    stage: str
    unit: str  # "rows" or "queries"
    done: int
    total: int
    found: int  # done before this process began
    tokens: int  # of what it did itself
    units_per_second: float
    tokens_per_second: float
    seconds_left: float | None  # None: nothing to judge by yet

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0


class Meter:
    """Counts one stage after another and tells every listener."""

    def __init__(self, *listeners: Callable[[Progress], None]) -> None:
        self.listeners = listeners

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.unit, self.total = stage, unit, total
        self.found, self.done, self.tokens, self.started = done, done, 0, time.monotonic()
        self._tell()

    def advance(self, units: int, tokens: int = 0) -> None:
        self.done += units
        self.tokens += tokens
        self._tell()

    def finish(self) -> int:
        """The stage has ended; returns how many units this process was not told of."""
        unheard = self.total - self.done
        self.advance(unheard)
        return unheard

    def _tell(self) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done - self.found) / seconds
        left = (self.total - self.done) / rate if rate else None
        snapshot = Progress(
            self.stage, self.unit, self.done, self.total, self.found, self.tokens, rate, self.tokens / seconds, left
        )
        for listener in self.listeners:
            listener(snapshot)
