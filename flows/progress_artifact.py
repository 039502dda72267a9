"""The progress of a stage as an artifact in the Prefect UI."""

import time
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.progress import Progress

UPDATE_SECONDS = 2.0


class ProgressArtifact:
    """A listener of `tasks.progress.Meter`: one artifact per stage, updated every few seconds."""

    def __init__(self, run_name: str) -> None:
        self.run_name = run_name.lower().replace("_", "-")
        self.stage: str | None = None
        self.artifact: UUID | None = None
        self.told = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self.stage:
            self.stage, self.told = progress.stage, time.monotonic()
            key = f"{self.run_name}-{progress.stage.replace(' ', '-')}"
            created = create_progress_artifact(100 * progress.share, key=key, description=_describe(progress))
            self.artifact = cast(UUID, created)  # a coroutine only in an async flow
        elif self.artifact is None:
            return
        elif progress.done >= progress.total or time.monotonic() - self.told >= UPDATE_SECONDS:
            self.told = time.monotonic()
            update_progress_artifact(self.artifact, 100 * progress.share, description=_describe(progress))


def _describe(progress: Progress) -> str:
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    tokens = f", {progress.tokens_per_second:,.0f} tokens/s" if progress.tokens_per_second else ""
    return (
        f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}, "
        f"{progress.units_per_second:,.1f} {progress.unit}/s{tokens}{left}"
    )
