"""Score the corpus: stream the units that are not done to the actors. The store says what is done."""

from collections.abc import Iterator, Set

from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.corpus import Unit, plan_units, shards_from_table
from tasks.job import ScanJob
from tasks.progress import Meter


def planned_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of the corpus, one at a time: there may be millions."""
    return plan_units(shards_from_table(storage.read_table(job.shards_uri)))


def pending_units(job: ScanJob) -> list[Unit]:
    """Units without a finished object: one listing, whatever a cache says."""
    return list(_units_without(storage.list_names(job.scores_uri), job))


def is_scored(job: ScanJob) -> bool:
    """Whether no unit is pending; the list of them is not made."""
    return next(_units_without(storage.list_names(job.scores_uri), job), None) is None


def count_rows(job: ScanJob) -> tuple[int, int]:
    """Rows of finished units, and rows of the corpus."""
    return _count_rows(job, storage.list_names(job.scores_uri))


def score_shards(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors score and publish every pending unit; returns the folder."""
    finished = storage.list_names(job.scores_uri)
    done, total = _count_rows(job, finished)
    meter.start("score shards", total=total, unit="rows", done=done)
    for _, receipt in pool.map("score", _units_without(finished, job)):
        meter.advance(receipt.num_rows, receipt.num_tokens)
    return job.scores_uri


def _count_rows(job: ScanJob, finished: Set[str]) -> tuple[int, int]:
    total = sum(unit.num_rows for unit in planned_units(job))
    return total - sum(unit.num_rows for unit in _units_without(finished, job)), total


def _units_without(finished: Set[str], job: ScanJob) -> Iterator[Unit]:
    fingerprint = job.scores_fingerprint  # taken once: the whole spec goes into it
    return (unit for unit in planned_units(job) if unit.name(fingerprint) not in finished)
