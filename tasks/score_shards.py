"""Score the corpus: stream the units that are not done to the actors. The store says what is done."""

from collections.abc import Iterator

from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.corpus import Unit, plan_units, shards_from_table
from tasks.job import ScanJob
from tasks.progress import Meter


def planned_units(job: ScanJob) -> Iterator[Unit]:
    return plan_units(shards_from_table(storage.read_table(job.shards_uri)))


def pending_units(job: ScanJob) -> list[Unit]:
    """Units without a finished object: one listing, whatever a cache says."""
    done = storage.list_names(job.scores_uri)
    return [unit for unit in planned_units(job) if job.score_name(unit) not in done]


def score_shards(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors score and publish every pending unit; returns the folder."""
    pending = pending_units(job)
    total = sum(unit.num_rows for unit in planned_units(job))
    meter.start("score shards", total=total, unit="rows", done=total - sum(unit.num_rows for unit in pending))
    for _, receipt in pool.map("score", pending):
        meter.advance(receipt.num_rows, receipt.num_tokens)
    return job.scores_uri
