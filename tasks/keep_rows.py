"""After the first pass: which rows are kept for each query, and where they lie.

candidates.parquet, in the run's folder: query_id, shard, row, the row's ratios for other queries (`others_mean`,
`others_spread`) as the first pass saw them, and the unit that holds the row.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

import pyarrow as pa

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
    lines: dict[tuple[str, Place], Line] = {}
    for line in best.select(["query_id", "shard", "row", "others_mean", "others_spread"]).to_pylist():
        for query in columns[line["query_id"]]:
            lines[query.query_id, (line["shard"], line["row"])] = line | {"query_id": query.query_id}
    unit_of = _units_of(job, [place for _, place in lines])
    for (_, place), line in lines.items():
        line |= {name: getattr(unit_of[place], name) for name in UNIT_FIELDS}
    ordered = [lines[key] for key in sorted(lines)]
    storage.publish_table(job.candidates_uri, pa.Table.from_pylist(ordered, SCHEMA))


def _units_of(job: ScanJob, places: Iterable[Place]) -> dict[Place, Unit]:
    """The unit that holds each row."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for shard, row in places:
        rows_of[shard].append(row)
    return {
        (unit.shard, row): unit
        for unit in planned_units(job)
        for row in rows_of.get(unit.shard, [])
        if unit.first_row <= row < unit.first_row + unit.num_rows
    }
