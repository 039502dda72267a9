"""The progress of a stage as an artifact in the Prefect UI.

Told on a thread of its own: a Prefect server that is slow, or away, holds up no actor and fails no run.
"""

import threading
from contextvars import copy_context
from typing import Any, Self, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from tasks.progress import Progress

UPDATE_SECONDS = 2.0
CLOSE_SECONDS = 30.0  # for what is still to be told in the end


class ProgressArtifact:
    """A listener of `tasks.progress.Meter`: one artifact per stage, updated every few seconds."""

    def __init__(self, run_name: str) -> None:
        self.run_name = run_name.lower().replace("_", "-")
        self._artifact_of: dict[str, UUID] = {}
        self._untold: dict[str, Progress] = {}  # the latest of each stage
        self._news, self._is_over = threading.Event(), threading.Event()
        context = copy_context()  # of the flow's run, which the artifacts belong to
        self._teller = threading.Thread(target=context.run, args=(self._tell_all,), name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._news.set()
        self._teller.join(CLOSE_SECONDS)

    def __call__(self, progress: Progress) -> None:
        self._untold[progress.stage] = progress
        self._news.set()

    def _tell_all(self) -> None:
        while not self._is_over.is_set():
            self._news.wait()
            self._news.clear()
            for stage in list(self._untold):
                self._tell(self._untold.pop(stage))
            self._is_over.wait(UPDATE_SECONDS)
        for progress in list(self._untold.values()):
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        told: dict[str, Any] = {"progress": 100 * progress.share, "description": _describe(progress)}
        try:
            if progress.stage in self._artifact_of:
                update_progress_artifact(self._artifact_of[progress.stage], **told)
            else:
                key = f"{self.run_name}-{progress.stage.replace(' ', '-')}"
                created = create_progress_artifact(key=key, **told)
                self._artifact_of[progress.stage] = cast(UUID, created)  # a coroutine only in an async flow
        except (PrefectException, httpx.HTTPError, OSError):
            self._untold.setdefault(progress.stage, progress)  # unless there is a newer one


def _describe(progress: Progress) -> str:
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    tokens = f", {progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else ""
    return (
        f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}, "
        f"{progress.units_per_second:,.1f} {progress.unit}/s{tokens}{left}"
    )
