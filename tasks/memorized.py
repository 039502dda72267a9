"""Every row of the corpus by its self-influence, as memorized.parquet in the run's folder; groups beside it.

What stays in memory is a line for each row, some 100 bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.spec import ScanSpec
from tasks import storage
from tasks.aggregate import NAMED_SKIPPED_ROWS, Totals
from tasks.bounded_map import bounded_map
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.near_duplicates import READERS, group_bundles
from tasks.quarantine import Quarantine
from tasks.score_shards import kept_units, planned_units
from tasks.surveys import memory_survey, read_survey
from tasks.unit_result import UnitReceipt, unit_receipt

ALL_ROWS = "all rows"  # where they have no labels
MOST_CLASSES = 50  # that a report shows

SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),  # 1: the largest self-influence
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),  # within the shard
        ("document_id", pa.string()),
        ("label", pa.int64()),
        ("self_influence", pa.float64()),  # finf_core.self_influence
        ("loss_nats", pa.float64()),
        ("num_targets", pa.int64()),
        ("gradient_norm", pa.float64()),
    ]
)


def rank_memorized(job: ScanJob) -> str:
    """Publish memorized.parquet and, last, totals.json; returns its URI."""
    receipts: list[UnitReceipt] = []
    tables = [SCHEMA.remove(0).empty_table()]
    for unit, table in _units(job):
        receipts.append(unit_receipt(table))
        tables.append(_lines(unit, table))
    table = pa.concat_tables(tables).unify_dictionaries()
    order_N = np.argsort(-table["self_influence"].to_numpy(), kind="stable")  # ties: by shard and row, as units come
    ranked = table.take(pa.array(order_N)).add_column(0, "rank", pa.array(np.arange(1, len(table) + 1)))
    storage.publish_table(job.memorized_uri, ranked.cast(SCHEMA))
    storage.publish_bytes(job.totals_uri, json.dumps(asdict(_totals(job, receipts))).encode())
    return job.totals_uri


def rows_to_show(rows: pa.Table, spec: ScanSpec) -> Iterator[tuple[str, pa.Table]]:
    """The name of each class, or of all rows, and its first rows."""
    labels, top_k = labels_of(rows), spec.rank.top_k
    if not labels:
        yield ALL_ROWS, rows.slice(0, top_k)
    for label in labels[:MOST_CLASSES]:
        yield spec.corpus.label_name(label), rows.filter(pc.equal(rows["label"], label)).slice(0, top_k)


def labels_of(rows: pa.Table) -> list[int]:
    return sorted(label for label in rows["label"].unique().to_pylist() if label is not None)


def group_scores(job: ScanJob) -> pa.Table:
    """`tasks.measure_memory.OF_GROUP`, the largest self-influence first; without columns where there is no group."""
    tables = list(group_bundles(job).results())
    return pa.concat_tables(tables).sort_by([("self_influence", "descending")]) if tables else pa.table({})


def _units(job: ScanJob) -> Iterator[tuple[Unit, pa.Table]]:
    survey = memory_survey(job)
    return bounded_map(lambda unit: (unit, read_survey(survey, unit)), kept_units(job), READERS, 2 * READERS)


def _lines(unit: Unit, table: pa.Table) -> pa.Table:
    shard = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), np.int32)), [unit.shard])
    columns = [shard if name == "shard" else table[name] for name in SCHEMA.names[1:]]
    return pa.table(columns, schema=SCHEMA.remove(0))


def _totals(job: ScanJob, receipts: list[UnitReceipt]) -> Totals:
    total = UnitReceipt.total(receipts, sum(receipt.seconds for receipt in receipts))
    quarantined = Quarantine(job).read()
    return Totals(
        num_shards=sum(unit.first_group == 0 for unit in planned_units(job)),
        num_rows=total.num_rows,
        num_tokens=total.num_tokens,
        num_targets=total.num_targets,
        num_skipped_rows=len(total.skipped),
        actor_seconds=total.seconds,
        skipped_rows=total.skipped[:NAMED_SKIPPED_ROWS],
        num_quarantined_rows=sum(each.unit.num_rows for each in quarantined),
        quarantined=[each.place() for each in quarantined],
    )
