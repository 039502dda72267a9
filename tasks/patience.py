"""Patience with storage that does not answer: wait, say so, try again.

Off unless it is turned on for a process: a library call fails at once. A run waits for minutes; an actor for seconds
(`tasks.actor_host`), then its crew has the whole unit done anew. It holds for every thread of the process.
"""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from finf_core.errors import StorageError
from tasks.told import Tell, Told

P = ParamSpec("P")
R = TypeVar("R")

FIRST_PAUSE_SECONDS = 0.5  # doubled with every attempt
LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True)
class _Patience:
    seconds: float
    tell: Tell


_held: list[_Patience] = []
_changing = threading.Lock()


@contextmanager
def patient(seconds: float, tell: Tell) -> Iterator[None]:
    """Within the block, what is `retried` waits this long for storage before it raises; `tell` hears of every wait."""
    mine = _Patience(seconds, tell)
    with _changing:
        _held.append(mine)
    try:
        yield
    finally:
        with _changing:
            _held.remove(mine)


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """A function that may be called again after a StorageError, and is, as long as patience holds."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        started, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        while True:
            try:
                return function(*args, **kwargs)
            except StorageError as error:
                patience = _held[-1] if _held else None
                if patience is None or time.monotonic() - started + pause > patience.seconds:
                    raise
                patience.tell(Told(f"{error}; waiting", "waits"))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    return call
