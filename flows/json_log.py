"""The progress of a run as JSON, an object a line, for what collects logs: `FINF_LOG=json`."""

import json
import math
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, Self

from tasks.progress import Progress
from tasks.told import Told

LINE_SECONDS = 20.0
VARIABLE = "FINF_LOG"
_writing = threading.Lock()


def is_wanted() -> bool:
    return os.environ.get(VARIABLE) == "json"


def log(level: str, message: str, **fields: Any) -> None:
    """One object on one line of standard error; any thread may call."""
    told = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "message": message}
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
    with _writing:
        print(json.dumps(told | finite), file=sys.stderr, flush=True)


class JsonLog:
    """Takes the place of `flows.progress_bar.ProgressBar`."""

    def __init__(self) -> None:
        self.run: str | None = None  # its folder, once it is known; in every line
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self, line: str) -> None:
        if not isinstance(line, Told):
            log("info", line, run=self.run)
            return
        log("warning", line, event=line.event, run=self.run, **line.ids)

    def __call__(self, progress: Progress) -> None:
        """The first and the last of a stage, and one now and then between."""
        now, ended = time.monotonic(), progress.done >= progress.total
        if now - self._said_at.get(progress.stage, -math.inf) < LINE_SECONDS and not ended:
            return
        self._said_at[progress.stage] = now
        log(
            "info",
            f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}",
            event="progress",
            stage=progress.stage,
            unit=progress.unit,
            done=progress.done,
            total=progress.total,
            units_per_second=progress.units_per_second,
            tokens_per_second=progress.tokens_per_second,
            seconds_left=progress.seconds_left,
            run=self.run,
        )
