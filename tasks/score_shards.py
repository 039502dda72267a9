"""Score the corpus: stream the units that are not done to the actors. The store says what is done.

Several processes may do so at once: each begins at another unit and looks now and then at what the others have done.
"""

import itertools
import secrets
import time
from collections.abc import Iterator
from typing import NamedTuple

from tasks import storage
from tasks.actor_pool import ActorPool, GivenUp
from tasks.corpus import Unit, plan_units, shards_from_table
from tasks.job import ScanJob
from tasks.progress import Meter
from tasks.quarantine import Quarantine
from tasks.query_sets import Coverage, QuerySet, Share, publish_set
from tasks.told import Tell, Told

LOOK_SECONDS = 20.0  # between two looks at what other processes have done
LOOK_SHARE = 0.05  # of the time, at most


class Rows(NamedTuple):
    scored: int
    set_aside: int
    total: int
    num_units: int


def planned_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of the corpus, one at a time: there may be millions."""
    return plan_units(shards_from_table(storage.read_table(job.shards_uri)))


def sample_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of `corpus.sample`, or of the corpus."""
    return plan_units(shards_from_table(storage.read_table(job.sample_uri)))


def kept_units(job: ScanJob) -> Iterator[Unit]:
    """Every unit of the corpus that was not set aside (`tasks.quarantine`)."""
    quarantine = Quarantine(job)
    return (unit for unit in planned_units(job) if unit not in quarantine)


def pending_units(job: ScanJob) -> list[Unit]:
    """Units without a finished object for some query, whatever a cache says."""
    return list(_units_without(Coverage(job), job))


def is_scored(job: ScanJob) -> bool:
    """Whether no unit is pending; the list of them is not made."""
    return next(_units_without(Coverage(job), job), None) is None


def count_rows(job: ScanJob) -> Rows:
    """Rows of finished units, of those set aside, and of the corpus."""
    coverage, quarantine = Coverage(job), Quarantine(job)
    num_units = scored = set_aside = total = 0
    for unit in planned_units(job):
        num_units += 1
        total += unit.num_rows
        if unit in quarantine:
            set_aside += unit.num_rows
        elif not coverage.of(unit).missing:
            scored += unit.num_rows
    return Rows(scored, set_aside, total, num_units)


def score_shards(job: ScanJob, pool: ActorPool, meter: Meter, tell: Tell = lambda line: None) -> str:
    """Have the actors score and publish what every pending unit lacks; returns the folder of the run's own set.

    Raises:
        FinfError: so many units could not be done that the result would be worth nothing.
    """
    rows, quarantine = count_rows(job), Quarantine(job)
    meter.start("score shards", total=rows.total, unit="rows", done=rows.scored + rows.set_aside)
    shares = pending_shares(job, secrets.randbelow(max(1, rows.num_units)))
    for share, receipt in pool.map("score_share", shares, may_give_up=True, after_deaths=_with_smaller_batches):
        if isinstance(receipt, GivenUp):
            quarantine.add(share.unit, receipt.reason, rows.num_units)
            tell(told_of(share.unit, receipt))
        meter.advance(share.unit.num_rows, 0 if isinstance(receipt, GivenUp) else receipt.num_tokens)
    if num_joined := meter.finish():
        tell(f"{num_joined:,} rows were scored by another process at the same time")
    return job.scores_uri


def told_of(unit: Unit, given_up: GivenUp) -> Told:
    line = f"{unit.num_rows:,} rows are set aside: {given_up.reason}"
    return Told(line, "set_aside", shard=unit.shard, row=unit.first_row, num_rows=unit.num_rows)


def pending_shares(job: ScanJob, begin_at: int = 0) -> Iterator[Share]:
    """What each unit lacks, as one set of queries, which is written down before any of its scores can be there.

    Args:
        begin_at: the number of the first unit; those before it come last.
    """
    digest_of: dict[frozenset[str], str] = {}
    coverage, look_at = _look(job)
    for unit in itertools.chain(
        itertools.islice(kept_units(job), begin_at, None), itertools.islice(kept_units(job), begin_at)
    ):
        if time.monotonic() > look_at:
            coverage, look_at = _look(job)
        missing = coverage.of(unit).missing
        if not missing:
            continue
        if missing not in digest_of:
            lacking = QuerySet(tuple(sorted(missing)))
            publish_set(job, lacking)
            digest_of[missing] = lacking.digest
        yield Share(unit, digest_of[missing])


def _look(job: ScanJob) -> tuple[Coverage, float]:
    """What is done, and when to look again."""
    started = time.monotonic()
    coverage = Coverage(job)
    now = time.monotonic()
    return coverage, now + max(LOOK_SECONDS, (now - started) / LOOK_SHARE)


def _with_smaller_batches(share: Share, num_deaths: int) -> Share:
    """Whatever kills actors again and again may be a lack of memory that nobody had the time to report."""
    return share._replace(halvings=max(0, num_deaths - 1))


def _units_without(coverage: Coverage, job: ScanJob) -> Iterator[Unit]:
    return (unit for unit in kept_units(job) if coverage.of(unit).missing)
