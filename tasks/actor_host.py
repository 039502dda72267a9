"""What really runs in the actor's process: it holds the plain object and survives that object's constructor.

Ray reports an error of an actor's own constructor as a dead actor and a string. Built by a method call instead,
it arrives as itself; and a process that Ray restarted, which holds nothing yet, says so.
"""

from typing import Any


class NotBuiltError(Exception):
    """The process was restarted since `build`."""


class ActorHost:
    def __init__(self) -> None:
        self._hosted: Any = None

    def wake(self) -> None:
        """Answer: there is a process."""

    def build(self, actor_class: type, actor_args: tuple[Any, ...]) -> None:
        """Make the object (which may take minutes) and have it say that it is well."""
        self._hosted = actor_class(*actor_args)
        self._hosted.ping()

    def run(self, method: str, unit: Any) -> Any:
        if self._hosted is None:
            raise NotBuiltError
        return getattr(self._hosted, method)(unit)
