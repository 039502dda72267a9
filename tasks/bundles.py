"""Bundles: some queries, and the rows that a first pass kept for them, which an actor scores as one unit of work.

A bundle is named by its content, as a unit is, so a run that was stopped scores only those that are missing.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finf_core.fingerprint import fingerprint
from finf_core.top_k import merge_top
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bounded_map import bounded_map
from tasks.job import ScanJob
from tasks.progress import Meter
from tasks.queries import read_queries

BUNDLE_QUERIES = 16  # whose rows are read, and held, at once
READERS = 8
SECONDS_KEY = b"finf.seconds"

Line = dict[str, Any]  # of candidates.parquet: see tasks.keep_rows


@dataclass(frozen=True)
class Bundle:
    """Some queries, by id, and the digest of the rows that they are to be scored on."""

    query_ids: tuple[str, ...]
    digest: str

    def name(self, kept_fingerprint: str) -> str:
        return f"{fingerprint([kept_fingerprint, self])}.parquet"


def planned_bundles(job: ScanJob) -> Iterator[Bundle]:
    """Every bundle of the run, in the order of its queries."""
    query_ids = [query.query_id for query in read_queries(job.queries_uri)]
    table = storage.read_table(job.candidates_uri)
    for start in range(0, len(query_ids), BUNDLE_QUERIES):
        some = tuple(query_ids[start : start + BUNDLE_QUERIES])
        yield make_bundle(some, _lines_of(table, some))  # only their lines become Python objects


def make_bundle(query_ids: tuple[str, ...], lines_of: Mapping[str, Sequence[Line]]) -> Bundle:
    return Bundle(query_ids, fingerprint([lines_of.get(query_id, []) for query_id in query_ids]))


def bundle_uri(job: ScanJob, bundle: Bundle) -> str:
    return storage.join(job.kept_uri, bundle.name(job.kept_fingerprint))


def pending_bundles(job: ScanJob) -> list[Bundle]:
    done = storage.list_names(job.kept_uri)
    return [bundle for bundle in planned_bundles(job) if bundle.name(job.kept_fingerprint) not in done]


def is_rescored(job: ScanJob) -> bool:
    return storage.exists(job.candidates_uri) and not pending_bundles(job)


def rescore(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors score and publish every pending bundle; returns the folder."""
    pending = pending_bundles(job)
    total = sum(len(bundle.query_ids) for bundle in pending)
    meter.start("score kept rows", total=total, unit="queries")
    for bundle, _ in pool.map("rescore", pending):
        meter.advance(len(bundle.query_ids))
    return job.kept_uri


def read_candidates(job: ScanJob, query_ids: Sequence[str]) -> dict[str, list[Line]]:
    """query_id -> its lines, for the queries that have any."""
    return _lines_of(storage.read_table(job.candidates_uri), query_ids)


def _lines_of(table: pa.Table, query_ids: Sequence[str]) -> dict[str, list[Line]]:
    lines_of: dict[str, list[Line]] = defaultdict(list)
    for line in table.filter(pc.is_in(table["query_id"], pa.array(query_ids, pa.string()))).to_pylist():
        lines_of[line["query_id"]].append(line)
    return lines_of


def read_kept(job: ScanJob) -> tuple[pa.Table, float]:
    """The best rows of every query, in the order of `merge_top`, and the seconds of all actors."""
    uris = (bundle_uri(job, bundle) for bundle in planned_bundles(job))
    tables = list(bounded_map(storage.read_table, uris, READERS, 2 * READERS))
    seconds = sum(float(table.schema.metadata[SECONDS_KEY]) for table in tables)
    best = merge_top([table.replace_schema_metadata(None) for table in tables], job.spec.rank)
    return best, seconds
