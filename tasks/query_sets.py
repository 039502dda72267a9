"""Sets of queries that were scored together: a new query does not have the old ones scored again.

A unit is done when the sets that were scored on it hold every query of the run between them. What they lack is scored
as one new set: the new queries on units that are known, all queries on new units. A set may hold queries that are no
longer asked. The store alone says what is there. Where queries depend on each other (`ScanJob.is_one_set`), only the
set of just this run's queries counts.

<store>/cache/sets-<…>/<digest>.json    which queries a set holds; written before any of its scores
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from finf_core.fingerprint import fingerprint
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.queries import Query, read_queries

READERS = 16


@dataclass(frozen=True)
class QuerySet:
    """Digests of queries' texts, sorted: neither ids nor order nor what is a control matters to a score."""

    queries: tuple[str, ...]

    @classmethod
    def of(cls, queries: Iterable[Query]) -> "QuerySet":
        return cls(tuple(sorted({query.digest for query in queries})))

    @property
    def digest(self) -> str:
        return fingerprint(self.queries)


class Share(NamedTuple):
    """What an actor scores at once: a set of queries on a unit."""

    unit: Unit
    set_digest: str
    halvings: int = 0  # of the batches


class Found(NamedTuple):
    """Of a unit: the objects that hold some of the run's queries, and the queries that none holds."""

    uris: list[str]
    missing: frozenset[str]


class Coverage:
    """What the store holds of a run's scores, from one listing of each set's folder."""

    def __init__(self, job: ScanJob) -> None:
        own = QuerySet.of(read_queries(job.queries_uri))
        known = {own} if job.is_one_set else {own, *known_sets(job)}
        self.asked = frozenset(own.queries)
        overlaps = [(self.asked.intersection(each.queries), each) for each in known]
        overlaps.sort(key=lambda pair: (-len(pair[0]), pair[1].digest))  # few objects a unit
        self._folders = [_Folder(job_of_set(job, each.digest), queries) for queries, each in overlaps if queries]

    def of(self, unit: Unit) -> Found:
        missing, uris = self.asked, list[str]()
        for folder in self._folders:
            if not missing.isdisjoint(folder.queries) and (name := unit.name(folder.fingerprint)) in folder.finished:
                uris.append(storage.join(folder.uri, name))
                missing -= folder.queries
        return Found(uris, missing)


class _Folder:
    """The scores of one set, as they are when this is made."""

    def __init__(self, job: ScanJob, queries: frozenset[str]) -> None:
        self.queries = queries  # of the run
        self.uri, self.fingerprint = job.scores_uri, job.scores_fingerprint  # taken once: the whole spec goes into it
        self.finished = storage.list_names(self.uri)


def job_of_set(job: ScanJob, set_digest: str) -> ScanJob:
    """The job as if it asked these queries only: for the names of their scores."""
    return replace(job, set_digest=set_digest)


def publish_set(job: ScanJob, queries: QuerySet) -> None:
    storage.publish_bytes(_set_uri(job, queries.digest), json.dumps(queries.queries).encode())


def read_set(job: ScanJob, digest: str) -> QuerySet:
    return QuerySet(tuple(json.loads(storage.read_bytes(_set_uri(job, digest)))))


def known_sets(job: ScanJob) -> list[QuerySet]:
    """Every set that was scored, or is about to be, in the way that this job scores."""
    digests = sorted(name.removesuffix(".json") for name in storage.list_names(job.sets_uri))
    return list(bounded_map(partial(read_set, job), digests, READERS, READERS))


def queries_of_set(job: ScanJob, queries: Sequence[Query], set_digest: str) -> list[Query]:
    """The run's queries that a set holds, once each, under their digests: what its columns are named by.

    Where the run is one set, all of them, under their ids.
    """
    if job.is_one_set:
        return list(queries)
    wanted = None if set_digest == job.set_digest else set(read_set(job, set_digest).queries)
    by_digest = {query.digest: replace(query, query_id=query.digest) for query in queries}
    return [query for digest, query in by_digest.items() if wanted is None or digest in wanted]


def _set_uri(job: ScanJob, digest: str) -> str:
    return storage.join(job.sets_uri, f"{digest}.json")
