"""The result of one unit of work as one Parquet object: a row per query with its best rows and its histogram.

One object, so that it is there whole or not at all.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.scores import Ints
from finf_core.top_k import CANDIDATES
from tasks import storage
from tasks.bad_rows import Skipped

METADATA_KEY = b"finf.unit"


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


def publish_unit(
    uri: str, query_ids: Sequence[str], candidates: pa.Table, counts_QK: Ints, receipt: UnitReceipt
) -> None:
    """Publish the candidates (`CANDIDATES`) and the histogram (one row per query, in the order of `query_ids`)."""
    position = {query_id: index for index, query_id in enumerate(query_ids)}
    owners = np.array([position[query_id] for query_id in candidates["query_id"].to_pylist()], dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    offsets = np.searchsorted(owners[order], np.arange(len(query_ids) + 1)).astype(np.int32)
    rows = candidates.take(pa.array(order)).drop_columns("query_id").to_struct_array().combine_chunks()
    table = pa.table(
        {
            "query_id": pa.array(query_ids, pa.string()),
            "ratio_counts": pa.array(list(counts_QK), pa.list_(pa.int64())),
            "top": pa.ListArray.from_arrays(pa.array(offsets), rows),
        }
    )
    metadata = {METADATA_KEY: json.dumps(asdict(receipt)).encode()}
    storage.publish_table(uri, table.replace_schema_metadata(metadata))


def read_unit_result(uri: str) -> tuple[pa.Table, Ints, UnitReceipt]:
    """Candidates, (Q, K) histogram counts in the order of the run's queries, and the receipt."""
    table = storage.read_table(uri)
    receipt: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
    receipt["skipped"] = tuple(tuple(item) for item in receipt["skipped"])
    top = table["top"].combine_chunks()
    repeated = np.repeat(np.arange(len(table)), top.value_lengths().to_numpy())
    rows = pa.Table.from_struct_array(top.flatten())
    candidates = rows.add_column(0, "query_id", table["query_id"].take(pa.array(repeated))).cast(CANDIDATES)
    counts_QK = np.array(table["ratio_counts"].to_pylist(), dtype=np.int64)
    return candidates, counts_QK, UnitReceipt(**receipt)
