"""What really runs in the actor's process: it holds the plain object and survives that object's constructor.

Ray reports an error of an actor's own constructor as a dead actor and a string. Built by a method call instead,
it arrives as itself; and a process that Ray restarted, which holds nothing yet, says so.
"""

import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

from finf_core.errors import InputError
from tasks.patience import patient

PACKAGES = ("finf", "torch", "transformers")  # that numbers depend on; Ray compares its own version and Python's
STORAGE_SECONDS = 10.0  # that storage may stutter in the middle of a unit; for longer, the crew has it done anew


class NotBuiltError(Exception):
    """The process was restarted since `build`."""


class ActorHost:
    def __init__(self) -> None:
        self._hosted: Any = None

    def wake(self) -> None:
        """Answer: there is a process."""

    def build(self, of_driver: Mapping[str, str], actor_class: type, actor_args: tuple[Any, ...]) -> None:
        """Make the object (which may take minutes) and have it say that it is well.

        Raises:
            InputError: this node has other versions than the driver, or what the constructor raises.
        """
        _refuse_other_versions(of_driver)
        with _patient():
            self._hosted = actor_class(*actor_args)
            self._hosted.ping()

    def run(self, method: str, unit: Any) -> Any:
        if self._hosted is None:
            raise NotBuiltError
        with _patient():
            return getattr(self._hosted, method)(unit)


def versions() -> dict[str, str]:
    """Of `PACKAGES` in this process, without what says CPU or CUDA."""
    return {name: version(name).partition("+")[0] for name in PACKAGES}


def _refuse_other_versions(of_driver: Mapping[str, str]) -> None:
    here = versions()
    others = [
        f"{name} {here[name]}, the driver {of_driver[name]}" for name in PACKAGES if here[name] != of_driver[name]
    ]
    if others:
        raise InputError(
            f"the node {platform.node()} has {'; '.join(others)}: their scores would not be one result; "
            "install the same versions everywhere"
        )


def _patient() -> AbstractContextManager[None]:
    return patient(STORAGE_SECONDS, lambda line: None)
