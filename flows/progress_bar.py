"""The progress of a run in the terminal: a live bar, or a line now and then where there is no terminal."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from finf_core.report.visible import visible_line
from tasks.progress import Progress

LINE_SECONDS = 20.0


class ProgressBar:
    """A listener of `tasks.progress.Meter`; writes to standard error, so standard output stays a result."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, markup=False, highlight=False)
        self.bars = Bars(
            TextColumn("{task.description:<14}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task_of: dict[str, TaskID] = {}
        self.told = 0.0
        self.said: dict[str, float] = {}  # line -> when

    def __enter__(self) -> "ProgressBar":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def tell(self, line: str) -> None:
        """A line of its own above the bar; the same one not again for a while. Any thread may call."""
        now = time.monotonic()
        if now - self.said.get(line, -LINE_SECONDS) >= LINE_SECONDS:
            self.said = {line: at for line, at in self.said.items() if now - at < LINE_SECONDS} | {line: now}
            self.console.print(visible_line(line), soft_wrap=True)

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.task_of:
            self.task_of[progress.stage] = self.bars.add_task(progress.stage, total=progress.total, rates="")
            self.told = time.monotonic()
        self.bars.update(self.task_of[progress.stage], completed=progress.done, rates=rates(progress))
        ended = progress.done >= progress.total
        if not self.console.is_terminal and (ended or time.monotonic() - self.told >= LINE_SECONDS):
            self.told = time.monotonic()
            line = f"{progress.stage}: {progress.done:,}/{progress.total:,} {rates(progress)}"
            print(line, file=sys.stderr, flush=True)


def rates(progress: Progress) -> str:
    """Such as "31.2 rows/s, 1,870 tokens/s, 0:42 left"."""
    parts = [f"{progress.units_per_second:,.1f} {progress.unit}/s"]
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None and progress.done < progress.total:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
