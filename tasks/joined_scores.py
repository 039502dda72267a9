"""The scores of a run whose queries were scored in several sets (`tasks.query_sets`), put together.

Name suffixes: P distinct rows (places) among the best, Q queries of the run, L lines of the table.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.errors import StorageError
from finf_core.scores import Floats, control_z, other_ratios
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.query_sets import Coverage
from tasks.score_shards import kept_units
from tasks.unit_result import RATIOS, join_sets, row_ratios

READERS = 16

Place = tuple[str, int]  # shard and row


class JoinedUnit(NamedTuple):
    """A unit, where its scores lie, and the name of each query's column there."""

    unit: Unit
    uris: list[str]
    column_of: dict[str, str]

    def read(self, columns: Sequence[str]) -> pa.Table:
        return join_sets([storage.read_table(uri, columns) for uri in self.uris], self.column_of)


def joined_units(job: ScanJob) -> Iterator[JoinedUnit]:
    """Every unit of the corpus that was not set aside.

    Raises:
        StorageError: a unit is not scored for all queries.
    """
    column_of = {query.query_id: query.digest for query in read_queries(job.queries_uri)}
    coverage = Coverage(job)
    for unit in kept_units(job):
        uris, missing = coverage.of(unit)
        if missing:
            raise StorageError(f"{unit.shard}: scores of its rows from {unit.first_row} on are missing; run again")
        yield JoinedUnit(unit, uris, column_of)


def compare_with_others(job: ScanJob, best: pa.Table) -> pa.Table:
    """The best rows with `others_mean`, `others_spread` and `control_z` among all queries of the run.

    A set knows its own queries only. The ratios of all of them are read from the units that hold a best row.
    """
    place_L: list[Place] = list(zip(best["shard"].to_pylist(), best["row"].to_pylist(), strict=True))
    if not place_L:
        return best
    ratios_of = _read_ratios(job, place_L)
    ratio_PQ = np.stack(list(ratios_of.values()))
    others = other_ratios(ratio_PQ)
    row_of = {place: index for index, place in enumerate(ratios_of)}
    column_of = {query.query_id: index for index, query in enumerate(read_queries(job.queries_uri))}
    row_L = [row_of[place] for place in place_L]
    column_L = [column_of[query_id] for query_id in best["query_id"].to_pylist()]
    found = {"control_z": control_z(ratio_PQ, others), "others_mean": others.mean_RQ, "others_spread": others.spread_RQ}
    for name, value_PQ in found.items():
        values = pa.array(value_PQ[row_L, column_L], from_pandas=True)  # NaN is unknown: null
        best = best.set_column(best.schema.get_field_index(name), best.schema.field(name), values)
    return best


def _read_ratios(job: ScanJob, places: Sequence[Place]) -> dict[Place, Floats]:
    """Place -> (Q,) its row ratio for each query of the run, in order."""
    rows_of: dict[str, set[int]] = defaultdict(set)
    for shard, row in places:
        rows_of[shard].add(row)

    def wanted() -> Iterator[tuple[JoinedUnit, list[int]]]:
        for joined in joined_units(job):
            first, stop = joined.unit.first_row, joined.unit.first_row + joined.unit.num_rows
            if rows := [row for row in rows_of.get(joined.unit.shard, ()) if first <= row < stop]:
                yield joined, rows

    def read(item: tuple[JoinedUnit, list[int]]) -> dict[Place, Floats]:
        joined, rows = item
        ratio_RQ = row_ratios(joined.read(RATIOS))
        return {(joined.unit.shard, row): ratio_RQ[row - joined.unit.first_row].copy() for row in rows}

    found: dict[Place, Floats] = {}
    for some in bounded_map(read, wanted(), READERS, 2 * READERS):
        found |= some
    return found
