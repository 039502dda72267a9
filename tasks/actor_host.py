"""What really runs in the actor's process: it holds the plain object and survives that object's constructor.

Ray reports an error of an actor's own constructor as a dead actor and a string. Built by a method call instead,
it arrives as itself; and a process that Ray restarted, which holds nothing yet, says so.
"""

from contextlib import AbstractContextManager
from typing import Any

from tasks.patience import patient

STORAGE_SECONDS = 10.0  # that storage may stutter in the middle of a unit; for longer, the crew has it done anew


class NotBuiltError(Exception):
    """The process was restarted since `build`."""


class ActorHost:
    def __init__(self) -> None:
        self._hosted: Any = None

    def wake(self) -> None:
        """Answer: there is a process."""

    def build(self, actor_class: type, actor_args: tuple[Any, ...]) -> None:
        """Make the object (which may take minutes) and have it say that it is well."""
        with _patient():
            self._hosted = actor_class(*actor_args)
            self._hosted.ping()

    def run(self, method: str, unit: Any) -> Any:
        if self._hosted is None:
            raise NotBuiltError
        with _patient():
            return getattr(self._hosted, method)(unit)


def _patient() -> AbstractContextManager[None]:
    return patient(STORAGE_SECONDS, lambda line: None)
