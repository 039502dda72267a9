"""A survey: a pass over all rows that asks the model something of each, whatever the queries are.

A table for each unit of work, published whole: listing the folder tells what is done, as for scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from tasks import storage
from tasks.actor_pool import ActorPool, GivenUp
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.progress import Meter
from tasks.quarantine import Quarantine
from tasks.score_shards import kept_units, planned_units, told_of
from tasks.told import Tell


@dataclass(frozen=True)
class Survey:
    title: str
    method: str  # of `tasks.shard_scorer.ShardScorer`: takes a unit, publishes its table, returns its tokens
    folder: str
    fingerprint: str

    def uri(self, unit: Unit) -> str:
        return storage.join(self.folder, unit.name(self.fingerprint))


def labels_survey(job: ScanJob) -> Survey:
    return Survey("judge labels", "judge_labels", job.labels_uri, job.labels_fingerprint)


def memory_survey(job: ScanJob) -> Survey:
    return Survey("measure rows", "measure_rows", job.memory_uri, job.memory_fingerprint)


def pending_units(job: ScanJob, survey: Survey) -> Iterator[Unit]:
    """Units without a table, as the store is now."""
    done = storage.list_names(survey.folder)
    return (unit for unit in kept_units(job) if unit.name(survey.fingerprint) not in done)


def is_surveyed(job: ScanJob, survey: Survey) -> bool:
    return next(pending_units(job, survey), None) is None


def survey_rows(job: ScanJob, survey: Survey, pool: ActorPool, meter: Meter, tell: Tell = lambda line: None) -> str:
    """Have the actors do every pending unit; returns the folder.

    Raises:
        FinfError: so many units could not be done that the result would be worth nothing.
    """
    sizes = [unit.num_rows for unit in planned_units(job)]
    num_pending = sum(unit.num_rows for unit in pending_units(job, survey))
    quarantine = Quarantine(job)
    meter.start(survey.title, total=sum(sizes), unit="rows", done=sum(sizes) - num_pending)
    for unit, num_tokens in pool.map(survey.method, pending_units(job, survey), may_give_up=True):
        is_given_up = isinstance(num_tokens, GivenUp)
        if is_given_up:
            quarantine.add(unit, num_tokens.reason, len(sizes))
            tell(told_of(unit, num_tokens))
        meter.advance(unit.num_rows, 0 if is_given_up else num_tokens)
    return survey.folder


def read_survey(survey: Survey, unit: Unit) -> pa.Table:
    return storage.read_table(survey.uri(unit))
