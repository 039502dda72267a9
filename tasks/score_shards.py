"""Score the corpus: stream the units that are not done to the actors. The store says what is done."""

from collections.abc import Iterator

from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.corpus import Unit, plan_units, shards_from_table
from tasks.job import ScanJob
from tasks.progress import Meter
from tasks.query_sets import Coverage, QuerySet, Share, publish_set


def planned_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of the corpus, one at a time: there may be millions."""
    return plan_units(shards_from_table(storage.read_table(job.shards_uri)))


def sample_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of `corpus.sample`, or of the corpus."""
    return plan_units(shards_from_table(storage.read_table(job.sample_uri)))


def pending_units(job: ScanJob) -> list[Unit]:
    """Units without a finished object for some query, whatever a cache says."""
    return list(_units_without(Coverage(job), job))


def is_scored(job: ScanJob) -> bool:
    """Whether no unit is pending; the list of them is not made."""
    return next(_units_without(Coverage(job), job), None) is None


def count_rows(job: ScanJob) -> tuple[int, int]:
    """Rows of finished units, and rows of the corpus."""
    return _count_rows(job, Coverage(job))


def score_shards(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors score and publish what every pending unit lacks; returns the folder of the run's own set."""
    coverage = Coverage(job)
    done, total = _count_rows(job, coverage)
    meter.start("score shards", total=total, unit="rows", done=done)
    for _, receipt in pool.map("score_share", pending_shares(job, coverage)):
        meter.advance(receipt.num_rows, receipt.num_tokens)
    return job.scores_uri


def pending_shares(job: ScanJob, coverage: Coverage) -> Iterator[Share]:
    """What each unit lacks, as one set of queries, which is written down before any of its scores can be there."""
    digest_of: dict[frozenset[str], str] = {}
    for unit in planned_units(job):
        missing = coverage.of(unit).missing
        if not missing:
            continue
        if missing not in digest_of:
            lacking = QuerySet(tuple(sorted(missing)))
            publish_set(job, lacking)
            digest_of[missing] = lacking.digest
        yield Share(unit, digest_of[missing])


def _count_rows(job: ScanJob, coverage: Coverage) -> tuple[int, int]:
    total = sum(unit.num_rows for unit in planned_units(job))
    return total - sum(unit.num_rows for unit in _units_without(coverage, job)), total


def _units_without(coverage: Coverage, job: ScanJob) -> Iterator[Unit]:
    return (unit for unit in planned_units(job) if coverage.of(unit).missing)
