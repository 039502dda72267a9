"""Bundles: some queries, and some rows for each, which an actor looks at as one unit of work.

There are two kinds: the rows that a first pass kept, to be scored (`tasks.rescore`), and the rows that a report shows,
to be explained (`tasks.explain`). A bundle is named by its content, as a unit is, so a run that was stopped does only
those that are missing.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finf_core.fingerprint import fingerprint
from finf_core.top_k import CANDIDATES, merge_top
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bounded_map import bounded_map
from tasks.job import ScanJob
from tasks.progress import Meter

BUNDLE_QUERIES = 16  # whose rows are read, and held, at once
READERS = 8
SECONDS_KEY = b"finf.seconds"

Line = dict[str, Any]  # of the rows' table: see tasks.keep_rows


@dataclass(frozen=True)
class Bundle:
    """Some queries, by id, and the digest of their rows."""

    query_ids: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Bundles:
    """All bundles of one kind, of one run."""

    rows_uri: str  # which rows, for which queries
    folder: str  # of the results
    fingerprint: str

    def planned(self) -> Iterator[Bundle]:
        """Every bundle, in the order in which the queries come in the rows' table."""
        table = storage.read_table(self.rows_uri)
        query_ids = table["query_id"].unique().to_pylist()
        for start in range(0, len(query_ids), BUNDLE_QUERIES):
            some = tuple(query_ids[start : start + BUNDLE_QUERIES])
            yield make_bundle(some, _lines_of(table, some))  # only their lines become Python objects

    def pending(self) -> list[Bundle]:
        done = storage.list_names(self.folder)
        return [bundle for bundle in self.planned() if self._name(bundle) not in done]

    def are_done(self) -> bool:
        return storage.exists(self.rows_uri) and not self.pending()

    def uri(self, bundle: Bundle) -> str:
        """Where its result lies."""
        return storage.join(self.folder, self._name(bundle))

    def lines(self, query_ids: Sequence[str]) -> dict[str, list[Line]]:
        """query_id -> its lines, for the queries that have any."""
        return _lines_of(storage.read_table(self.rows_uri), query_ids)

    def results(self) -> Iterator[pa.Table]:
        uris = (self.uri(bundle) for bundle in self.planned())
        return bounded_map(storage.read_table, uris, READERS, 2 * READERS)

    def _name(self, bundle: Bundle) -> str:
        return f"{fingerprint([self.fingerprint, bundle])}.parquet"


def make_bundle(query_ids: tuple[str, ...], lines_of: Mapping[str, Sequence[Line]]) -> Bundle:
    return Bundle(query_ids, fingerprint([lines_of.get(query_id, []) for query_id in query_ids]))


def kept_bundles(job: ScanJob) -> Bundles:
    """Of the rows that the first pass kept for each query."""
    return Bundles(job.candidates_uri, job.kept_uri, job.kept_fingerprint)


def rescore(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors score and publish every pending bundle; returns the folder."""
    do_bundles("rescore", "score kept rows", kept_bundles(job), pool, meter)
    return job.kept_uri


def do_bundles(method: str, title: str, bundles: Bundles, pool: ActorPool, meter: Meter) -> None:
    """Have the actors do every pending bundle."""
    pending = bundles.pending()
    meter.start(title, total=sum(len(bundle.query_ids) for bundle in pending), unit="queries")
    for bundle, _ in pool.map(method, pending):
        meter.advance(len(bundle.query_ids))


def _lines_of(table: pa.Table, query_ids: Sequence[str]) -> dict[str, list[Line]]:
    lines_of: dict[str, list[Line]] = defaultdict(list)
    for line in table.filter(pc.is_in(table["query_id"], pa.array(query_ids, pa.string()))).to_pylist():
        lines_of[line["query_id"]].append(line)
    return lines_of


def read_kept(job: ScanJob) -> tuple[pa.Table, float]:
    """The best rows of every query, in the order of `merge_top`, and the seconds of all actors."""
    tables = list(kept_bundles(job).results())
    seconds = sum(float(table.schema.metadata[SECONDS_KEY]) for table in tables)
    plain = [table.replace_schema_metadata(None) for table in tables]
    best = merge_top([CANDIDATES.empty_table(), *plain], job.spec.rank)
    return best, seconds
