"""What a run works with: its actors, what counts their hours, and who hears how far they are."""

from collections.abc import Iterator
from contextlib import contextmanager

from flows.json_log import JsonLog, is_wanted
from flows.progress_artifact import ProgressArtifact
from flows.progress_bar import ProgressBar
from tasks.actor_pool import ActorPool
from tasks.budget import Budget
from tasks.job import ScanJob
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.run_metrics import RunMetrics
from tasks.shard_scorer import ShardScorer


def progress_log() -> ProgressBar | JsonLog:
    """For people, or for machines that collect logs."""
    return JsonLog() if is_wanted() else ProgressBar()


@contextmanager
def crewed(job: ScanJob, options: RunOptions, log: ProgressBar | JsonLog) -> Iterator[tuple[ActorPool, Meter]]:
    """The pool of a run and the meter of its stages; both end with the block."""
    if isinstance(log, JsonLog):
        log.run = job.run_uri
    budget = Budget(options.budget, job.spending_uri)
    metrics = RunMetrics(job.run_uri.rpartition("/")[2], budget)

    def tell(line: str) -> None:
        log.tell(line)
        metrics.tell(line)

    with (
        ActorPool(ShardScorer, (job,), options.pool, tell, budget) as pool,
        ProgressArtifact(job.spec.name) as artifact,
    ):
        yield pool, Meter(log, artifact, metrics)
