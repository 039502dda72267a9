"""A run's numbers for Prometheus, through Ray: each Ray node exports what its processes count, with `ray_` before it.

`finf_rows`, `finf_tokens` (counters; Ray adds `_total`), `finf_errors`, `finf_retries`; `finf_rows_planned`,
`finf_seconds_left`, `finf_cost_usd` (gauges). Tags: `run`, its folder's name; `stage`.
"""

from functools import cached_property
from typing import Any

from tasks.budget import Budget
from tasks.progress import Progress
from tasks.told import LOST, RETRIED, event_of


class RunMetrics:
    """A listener of `tasks.progress.Meter`, and of what is told. Counts once Ray is connected."""

    def __init__(self, run: str, budget: Budget) -> None:
        self._tags = {"run": run}
        self._budget = budget
        self._stage = ""
        self._done = self._tokens = 0

    def __call__(self, progress: Progress) -> None:
        import ray

        if progress.stage != self._stage:
            self._stage, self._done, self._tokens = progress.stage, progress.found, 0
        if not ray.is_initialized():
            return
        tags = self._tags | {"stage": progress.stage}
        if progress.unit == "rows":
            _add(self._counters["rows"], progress.done - self._done, tags)
            self._gauges["rows_planned"].set(progress.total, tags)
        _add(self._counters["tokens"], progress.tokens - self._tokens, tags)
        self._done, self._tokens = progress.done, progress.tokens
        if progress.seconds_left is not None:
            self._gauges["seconds_left"].set(progress.seconds_left, tags)
        if (cost := self._budget.spent.cost) is not None:
            self._gauges["cost_usd"].set(cost, tags)

    def tell(self, line: str) -> None:
        import ray

        if ray.is_initialized() and (event := event_of(line)) in (*RETRIED, *LOST):
            tags = self._tags | {"stage": self._stage}
            self._counters["errors"].inc(1, tags)
            _add(self._counters["retries"], int(event in RETRIED), tags)

    @cached_property
    def _counters(self) -> dict[str, Any]:
        from ray.util.metrics import Counter

        return {name: Counter(f"finf_{name}", f"{name} of finf", TAGS) for name in COUNTERS}

    @cached_property
    def _gauges(self) -> dict[str, Any]:
        from ray.util.metrics import Gauge

        return {name: Gauge(f"finf_{name}", text, TAGS) for name, text in GAUGES.items()}


COUNTERS = ("rows", "tokens", "errors", "retries")
GAUGES = {
    "rows_planned": "Rows of the stage in all",
    "seconds_left": "Seconds that the stage will still take",
    "cost_usd": "What the run has cost so far, at --price-per-hour",
}
TAGS = ("run", "stage")


def _add(counter: Any, number: int, tags: dict[str, str]) -> None:
    """Ray's counters refuse 0."""
    if number > 0:
        counter.inc(number, tags)
