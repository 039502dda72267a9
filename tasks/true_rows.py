"""Which rows are known to state the fact of a query: what a trace is measured by.

truth.parquet, in the run's folder: query_id, and document_id or shard and row. It is made of `truth.path`, or of a
column of the corpus, read once, before anything is paid for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from finf_core.columns import describe_columns, find_column, take_column
from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import Shard, shards_from_table
from tasks.evaluation.given_truth import RowKey, TrueRows, is_by_place, read_true_rows, row_key
from tasks.guarded_parquet import parsing
from tasks.job import ScanJob
from tasks.python_values import python_values
from tasks.queries import Query, facts_of, read_queries
from tasks.storage_errors import parquet_errors

READERS, AHEAD = 8, 32  # shards

SCHEMA = pa.schema(
    [("query_id", pa.string()), ("document_id", pa.string()), ("shard", pa.string()), ("row", pa.int64())]
)


@dataclass(frozen=True)
class Truth:
    """The true rows of each query; a query that is not named has none that is known."""

    rows_of: TrueRows
    of_corpus: bool  # rows were found in this run's shards: their names are whole URIs

    def key(self, row: Mapping[str, Any]) -> RowKey | None:
        """How the truth names a row of top.parquet."""
        if self.of_corpus:
            return row["shard"], row["row"]
        return row_key(row, is_by_place(self.rows_of))

    def holds(self, query_id: str, row: Mapping[str, Any]) -> bool:
        return self.key(row) in self.rows_of.get(query_id, set())


def digest_truth(path: str, queries: Sequence[Query]) -> str:
    """The content of a truth in a file.

    Raises:
        InputError: it cannot be read, or names a query that is not asked.
    """
    rows_of, asked = read_true_rows(path), {query.query_id for query in queries}
    if unknown := sorted(rows_of.keys() - asked):
        raise InputError(f"{path}: query_id {unknown[0]!r} is none of the queries; these are {sorted(asked)[:3]} …")
    return fingerprint({query_id: sorted(map(str, keys)) for query_id, keys in rows_of.items()})


def find_true_rows(job: ScanJob) -> str:
    """Publish truth.parquet; returns its URI.

    Raises:
        InputError: a shard lacks the column, or no row of the corpus has the value of any query.
    """
    path = job.spec.truth.path
    lines = list(_of_corpus(job)) if path is None else list(_of_file(path))
    if not lines:
        column, asked = job.spec.truth.column, job.spec.truth.column_of_queries
        raise InputError(
            f"{job.spec.corpus.path}: no row's {column!r} (truth.column) is the {asked!r} of any query; is it the same?"
        )
    storage.publish_table(job.truth_uri, pa.Table.from_pylist(lines, SCHEMA))
    return job.truth_uri


def read_truth(job: ScanJob) -> Truth | None:
    """What `find_true_rows` published; None where nothing is known."""
    if not job.spec.truth.is_given:
        return None
    if job.spec.truth.path is not None:
        return Truth(read_true_rows(job.truth_uri), of_corpus=False)
    rows_of: TrueRows = {}
    for line in storage.read_table(job.truth_uri).to_pylist():
        rows_of.setdefault(line["query_id"], set()).add((line["shard"], line["row"]))
    return Truth(rows_of, of_corpus=True)


def _of_file(path: str) -> Iterator[dict[str, Any]]:
    for query_id, keys in read_true_rows(path).items():
        for key in keys:
            place = {"document_id": key} if isinstance(key, str) else dict(zip(("shard", "row"), key, strict=True))
            yield {"query_id": query_id} | place


def _of_corpus(job: ScanJob) -> Iterator[dict[str, Any]]:
    asking: dict[str, list[str]] = {}
    for query in read_queries(job.queries_uri):
        for fact in query.facts:
            asking.setdefault(fact, []).append(query.query_id)
    shards = shards_from_table(storage.read_table(job.shards_uri))
    for lines in bounded_map(lambda shard: _of_shard(shard, job, asking), shards, READERS, AHEAD):
        yield from lines


def _of_shard(shard: Shard, job: ScanJob, asking: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Its rows that state a fact which is asked for."""
    column = str(job.spec.truth.column)
    lines: list[dict[str, Any]] = []
    first_row = 0
    with storage.open_parquet(shard.uri) as file:
        if find_column(file.schema_arrow, column) is None:
            there = describe_columns(file.schema_arrow)
            raise InputError(f"{shard.uri}: no column {column!r} (truth.column); the columns are {there}")
        for group in range(file.metadata.num_row_groups):
            table = storage.read_row_group(file, group, [column], shard.uri)
            with parquet_errors(shard.uri), parsing(shard.uri):
                values = list(python_values(take_column(table, column)))
            for row, value in enumerate(values, start=first_row):
                owners = {query_id for fact in facts_of(value) for query_id in asking.get(fact, ())}
                lines += [{"query_id": query_id, "shard": shard.uri, "row": row} for query_id in sorted(owners)]
            first_row += len(table)
    return lines
