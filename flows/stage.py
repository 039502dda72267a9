"""Stages: plain functions as Prefect tasks, retried where a retry can help and cached by fingerprint.

Storage is the truth: when Prefect remembers a result whose objects are gone, the stage runs again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from finf_core.errors import StorageError

RETRIES = 3
T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    stage: str
    seconds: float
    cached: bool


class Stages:
    """Runs one stage after the other and remembers how long each took."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []

    def always(self, name: str, work: Callable[[], T]) -> T:
        """A stage that must look at the world each time."""
        return self._timed(name, _as_task(name, work), cached=False)

    def once(self, name: str, work: Callable[[], str], *, key: str, done: Callable[[], bool]) -> str:
        """A stage whose products stay.

        Args:
            work: publishes the products and returns the URI of the last one; safe to run twice.
            key: fingerprint of everything that could change the products.
            done: whether the products are in the store.
        """
        is_done = done()
        cache_key = f"finf-{name.replace(' ', '-')}-{key}"
        cached = _as_task(name, work).with_options(
            cache_key_fn=lambda *_: cache_key, persist_result=True, refresh_cache=not is_done
        )
        return self._timed(name, cached, cached=is_done)

    def _timed(self, name: str, stage: Task[[], T], cached: bool) -> T:
        started = time.monotonic()
        result = stage()
        self.timings.append(Timing(name, time.monotonic() - started, cached))
        return result


def _as_task(name: str, work: Callable[[], T]) -> Task[[], T]:
    as_task = task(
        name=name,
        task_run_name=name,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(2),
        retry_condition_fn=_may_help,
    )
    return as_task(work)


async def _may_help(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A retry helps when storage stuttered, never when the input is wrong."""
    return isinstance(await state.aresult(raise_on_failure=False), StorageError)
