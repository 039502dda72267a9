"""After the first pass: which rows are kept for each query, and where they lie.

candidates.parquet, in the run's folder: query_id, shard, row, the row's ratios for other queries (`others_mean`,
`others_spread`) as the first pass saw them, and the unit that holds the row.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.errors import StorageError
from tasks import storage
from tasks.aggregate import merge_scores
from tasks.bundles import Line
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.queries import Query, read_queries
from tasks.rankers import group_columns
from tasks.score_shards import planned_units

UNIT_FIELDS = [field.name for field in fields(Unit) if field.name != "shard"]

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("others_mean", pa.float64()),
        ("others_spread", pa.float64()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("first_group", pa.int64()),
        ("stop_group", pa.int64()),
        ("first_row", pa.int64()),
        ("num_rows", pa.int64()),
    ]
)

Place = tuple[str, int]  # shard and row
NOBODY = -1


def keep_rows(job: ScanJob) -> str:
    """Merge the first pass and publish what it keeps; returns the URI."""
    columns = group_columns(job, read_queries(job.queries_uri))
    publish_candidates(job, columns, merge_scores(job, job.first_pass_rank).best)
    return job.candidates_uri


def unit_of_line(line: Line) -> Unit:
    return Unit(shard=line["shard"], **{name: line[name] for name in UNIT_FIELDS})


def publish_candidates(job: ScanJob, columns: Mapping[str, Sequence[Query]], best: pa.Table) -> None:
    """Publish the rows that the first pass keeps for each query: with the row's ratios for others, and its unit.

    Args:
        columns: the queries that each column of the first pass stands for.
        best: the first pass' units, merged.
    """
    lines = _lines_of_queries(columns, best.select(["query_id", *SCHEMA.names[1:5]]))
    owned = with_units(lines, planned_units(job))
    by_query = owned.sort_by([(name, "ascending") for name in ("query_id", "shard", "row")])
    storage.publish_table(job.candidates_uri, by_query.cast(SCHEMA))


def _lines_of_queries(columns: Mapping[str, Sequence[Query]], best: pa.Table) -> pa.Table:
    """Each query's lines, once each: first by shard, then by row, then by query.

    In Arrow's memory throughout: how many rows are kept grows with the corpus, and a line as a dict takes kilobytes.
    """
    tables = [best.slice(0, 0)]
    for column, (start, stop) in _ranges(best["query_id"]).items():
        for query in columns[column]:
            query_ids = pa.array([query.query_id] * (stop - start), pa.string())
            tables.append(best.slice(start, stop - start).set_column(0, "query_id", query_ids))
    key = ["shard", "row", "query_id"]
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in key])
    return table.filter(pa.array(_is_first(table.select(key))))


def _is_first(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether each line of a sorted table differs from the one before it."""
    is_first = np.zeros(len(table), dtype=np.bool_)
    is_first[:1] = True
    for column in table.columns:
        is_first[1:] |= pc.not_equal(column.slice(1), column.slice(0, max(0, len(table) - 1))).to_numpy()
    return is_first


def with_units(lines: pa.Table, units: Iterable[Unit]) -> pa.Table:
    """Lines that are sorted by shard and row, with the unit that holds each.

    Raises:
        StorageError: no unit holds one of them.
    """
    row_N, owner_N = lines["row"].to_numpy(), np.full(len(lines), NOBODY)
    range_of, owners = _ranges(lines["shard"]), list[Unit]()
    for unit in units:
        start, stop = range_of.get(unit.shard, (0, 0))
        wanted = [unit.first_row, unit.first_row + unit.num_rows]
        first, last = start + np.searchsorted(row_N[start:stop], wanted)
        if first < last:
            owner_N[first:last] = len(owners)
            owners.append(unit)
    if (owner_N == NOBODY).any():
        raise StorageError(
            "the first pass kept a row that no unit holds; its results are damaged: remove them, run again"
        )
    for name in UNIT_FIELDS:
        kind = SCHEMA.field(name).type
        lines = lines.append_column(name, pa.array([getattr(unit, name) for unit in owners], kind).take(owner_N))
    return lines


def _ranges(sorted_ids: pa.ChunkedArray) -> dict[str, tuple[int, int]]:
    """Where the lines of each id, which lie together, begin and end."""
    counts = pc.value_counts(sorted_ids)  # in the order in which they come
    stops = np.cumsum(counts.field("counts").to_numpy()).tolist()
    ranges = itertools.pairwise([0, *stops])
    return dict(zip(counts.field("values").to_pylist(), ranges, strict=True))
