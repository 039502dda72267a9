"""The result of one unit of work as one Parquet object: a row per query with its best rows, its histogram and, where
sets of queries are joined later, the `row_ratio` of every row.

One object, so that it is there whole or not at all. Many of them are read and taken apart at once: what a small one
costs is mostly the number of calls.

Name suffixes say the shape: Q queries, K bins of the histogram, U units.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.scores import Floats, Ints
from finf_core.top_k import CANDIDATES
from tasks import storage
from tasks.bad_rows import Skipped

METADATA_KEY = b"finf.unit"
HISTOGRAMS = ("query_id", "ratio_counts")
CANDIDATES_TOO = (*HISTOGRAMS, "top")
RATIOS = ("query_id", "row_ratios")


@dataclass(frozen=True)
class UnitReceipt:
    """Small enough to travel: what one unit cost and what it left out."""

    num_rows: int
    num_tokens: int
    num_targets: int
    seconds: float
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def total(cls, parts: Sequence["UnitReceipt"], seconds: float) -> "UnitReceipt":
        return cls(
            num_rows=sum(part.num_rows for part in parts),
            num_tokens=sum(part.num_tokens for part in parts),
            num_targets=sum(part.num_targets for part in parts),
            seconds=seconds,
            skipped=tuple(item for part in parts for item in part.skipped),
        )


class UnitResults(NamedTuple):
    """What some units found, together."""

    candidates: pa.Table  # `CANDIDATES`, in no order
    counts_QK: Ints  # summed over the units, in the order of the run's queries
    receipts: list[UnitReceipt]


def publish_unit(
    uri: str,
    query_ids: Sequence[str],
    candidates: pa.Table,
    counts_QK: Ints,
    receipt: UnitReceipt,
    row_ratio_RQ: Floats | None = None,
) -> None:
    """Publish the candidates (`CANDIDATES`) and the histogram (one row per query, in the order of `query_ids`).

    Args:
        row_ratio_RQ: of every row of the unit; NaN where a row has no score.
    """
    position = {query_id: index for index, query_id in enumerate(query_ids)}
    owners = np.array([position[query_id] for query_id in candidates["query_id"].to_pylist()], dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(query_ids) + 1)).astype(np.int32)
    rows = candidates.take(pa.array(order)).drop_columns("query_id").to_struct_array().combine_chunks()
    num_queries, num_bins = counts_QK.shape
    starts = pa.array(np.arange(num_queries + 1, dtype=np.int32) * num_bins)
    columns = {
        "query_id": pa.array(query_ids, pa.string()),
        "ratio_counts": pa.ListArray.from_arrays(starts, pa.array(counts_QK.ravel(), pa.int64())),
        "top": pa.ListArray.from_arrays(pa.array(offsets), rows),
    }
    if row_ratio_RQ is not None:
        columns["row_ratios"] = pa.array(list(row_ratio_RQ.T), pa.list_(pa.float64()))
    storage.publish_table(uri, pa.table(columns, metadata=unit_metadata(receipt)))


def read_unit_result(uri: str) -> tuple[pa.Table, Ints, UnitReceipt]:
    """Candidates, (Q, K) histogram counts in the order of the run's queries, and the receipt."""
    candidates, counts_QK, [receipt] = join_unit_results([storage.read_table(uri)])
    return candidates, counts_QK, receipt


def join_unit_results(objects_U: Sequence[pa.Table]) -> UnitResults:
    """Take apart the objects of one or more units of the same run, as `storage.read_table` gives them.

    Where only `HISTOGRAMS` was read of them, there are no candidates.
    """
    receipts = [unit_receipt(table) for table in objects_U]
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in objects_U]).combine_chunks()
    num_queries = len(table) // len(objects_U)
    counts_UQK = table["ratio_counts"].combine_chunks().flatten().to_numpy().reshape(len(objects_U), num_queries, -1)
    candidates = _candidates(table) if "top" in table.column_names else CANDIDATES.empty_table()
    return UnitResults(candidates, counts_UQK.sum(axis=0), receipts)


def join_sets(objects: Sequence[pa.Table], column_of: Mapping[str, str]) -> pa.Table:
    """The objects of one unit that hold some of a run's queries each, as one object that holds them all, in order.

    Args:
        objects: as `storage.read_table` gives them.
        column_of: query id -> name of its column in the objects. Where two hold it, their values are the same.
    """
    table = pa.concat_tables([each.replace_schema_metadata(None) for each in objects]).combine_chunks()
    place = {name: index for index, name in enumerate(table["query_id"].to_pylist())}
    table = table.take(pa.array([place[name] for name in column_of.values()]))
    table = table.set_column(0, "query_id", pa.array(list(column_of), pa.string()))
    receipts = [unit_receipt(each) for each in objects]
    skipped = dict.fromkeys(item for receipt in receipts for item in receipt.skipped)
    joined = replace(receipts[0], seconds=sum(each.seconds for each in receipts), skipped=tuple(skipped))
    return table.replace_schema_metadata(unit_metadata(joined))


def row_ratios(table: pa.Table) -> Floats:
    """(R, Q) of every row of a unit, from an object of which `RATIOS` was read."""
    ratio_QR: Floats = table["row_ratios"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    return ratio_QR.T


def _candidates(table: pa.Table) -> pa.Table:
    top = table["top"].combine_chunks()
    owners = np.repeat(np.arange(len(table)), top.value_lengths().to_numpy())
    query_id = table["query_id"].take(pa.array(owners))
    return pa.Table.from_struct_array(top.flatten()).add_column(0, "query_id", query_id).cast(CANDIDATES)


def unit_metadata(receipt: UnitReceipt) -> dict[bytes, bytes]:
    """A receipt as the metadata of a unit's table."""
    return {METADATA_KEY: json.dumps(asdict(receipt)).encode()}


def unit_receipt(table: pa.Table) -> UnitReceipt:
    """The inverse."""
    receipt: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
    receipt["skipped"] = tuple(tuple(item) for item in receipt["skipped"])
    return UnitReceipt(**receipt)
