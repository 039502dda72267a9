"""What a run settles for itself before it scores: the precision of its differences, and the strategy."""

from dataclasses import replace

from tasks import storage
from tasks.check_precision import read_precision_check
from tasks.choose_strategy import read_strategy
from tasks.job import ScanJob


def settle(job: ScanJob) -> ScanJob:
    """The job as it will be scored: with what was chosen, once it was."""
    if storage.exists(job.precision_uri):
        job = replace(job, precision=read_precision_check(job).precision)
    if storage.exists(job.strategy_uri):
        job = replace(job, strategy=read_strategy(job).spec)
    return job
