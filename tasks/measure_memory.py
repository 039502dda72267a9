"""On the actor: the self-influence of each row of a unit, and of groups of rows taken together."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from finf_core.curvature import Curvature
from finf_core.near_duplicates import image_signature, text_signature
from finf_core.self_influence import SelfInfluence, self_influence, self_moving
from tasks import storage
from tasks.bad_rows import Skipped, skip_row
from tasks.bundles import Bundle
from tasks.corpus import CorpusRow, Unit
from tasks.encode import encode_corpus_rows
from tasks.items import LABEL
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.near_duplicates import group_bundles
from tasks.read_ahead import read_ahead
from tasks.read_rows import read_rows
from tasks.row_groups import GROUPS_AHEAD, RowGroup, prepare_row_groups
from tasks.row_text import row_text
from tasks.surveys import memory_survey
from tasks.unit_result import UnitReceipt, unit_metadata

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # within the shard
        ("document_id", pa.string()),
        ("label", pa.int64()),  # null where rows have none
        ("loss_nats", pa.float64()),
        ("num_targets", pa.int64()),
        ("self_influence", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("signature", pa.binary()),  # finf_core.near_duplicates; null where rows are neither images nor text
    ]
)
OF_GROUP = pa.schema(
    [
        ("group", pa.string()),
        ("loss_nats", pa.float64()),
        ("num_targets", pa.int64()),
        ("self_influence", pa.float64()),
        ("gradient_norm", pa.float64()),
    ]
)

Measure = Callable[[Sequence[Sequence[Any]]], SelfInfluence]


def measure_of(model: LoadedModel, job: ScanJob, curvature: Curvature | None) -> Measure:
    moving = self_moving(model.adapter, job.spec.update.moves, curvature)
    return lambda rows: self_influence(model.adapter, rows, moving, curvature)


def measure_unit(model: LoadedModel, curvature: Curvature | None, job: ScanJob, unit: Unit) -> int:
    """Publish a line for every row that can be measured; returns the unit's tokens."""
    started, measure = time.monotonic(), measure_of(model, job, curvature)
    with read_ahead(prepare_row_groups(model, job, unit), GROUPS_AHEAD) as groups:
        parts = [_measure_row_group(model, job, unit, group, measure) for group in groups]
    tables, receipts = zip(*parts, strict=True)
    receipt = UnitReceipt.total(receipts, time.monotonic() - started)
    table = pa.concat_tables(tables).replace_schema_metadata(unit_metadata(receipt))
    storage.publish_table(memory_survey(job).uri(unit), table)
    return receipt.num_tokens


def _measure_row_group(
    model: LoadedModel, job: ScanJob, unit: Unit, group: RowGroup, measure: Measure
) -> tuple[pa.Table, UnitReceipt]:
    measured = [(row, measure([windows])) for row, windows in zip(group.good, group.windows, strict=True)]
    skipped = list(group.skipped)
    lines = []
    for row, found in measured:
        if flaw := _flaw(found):
            skipped.append(_skip(unit.shard, row.row, flaw, job))
        else:
            lines.append(_line(model, job, row) | _numbers(found))
    num_targets = sum(found.num_targets for _, found in measured)
    receipt = UnitReceipt(group.num_rows, group.num_tokens, num_targets, 0.0, tuple(skipped))
    return pa.Table.from_pylist(lines, SCHEMA), receipt


def _flaw(found: SelfInfluence) -> str | None:
    if not found.num_targets:
        return "nothing to predict"
    return None if math.isfinite(found.nats + found.influence) else "loss is not finite"


def _skip(shard: str, row: int, flaw: str, job: ScanJob) -> Skipped:
    """A loss that is not finite says something of the model, and never stops a run."""
    return (shard, row, flaw) if flaw == "loss is not finite" else skip_row(shard, row, flaw, job.spec.corpus)


def _line(model: LoadedModel, job: ScanJob, row: CorpusRow) -> dict[str, Any]:
    label = (row.item or {}).get(LABEL) if job.spec.corpus.label_column else None
    signature = _signature(model, job, row)
    return {"row": row.row, "document_id": row.document_id, "label": label, "signature": signature}


def _numbers(found: SelfInfluence) -> dict[str, Any]:
    return {
        "loss_nats": found.nats,
        "num_targets": found.num_targets,
        "self_influence": found.influence,
        "gradient_norm": found.gradient_norm,
    }


def _signature(model: LoadedModel, job: ScanJob, row: CorpusRow) -> bytes | None:
    if row.item is None:
        return text_signature(row_text(row, model.tokenizer), job.spec.rank.ngram_words)
    images = [value for value in row.item.values() if isinstance(value, np.ndarray)]
    return image_signature(images[0]) if images else None


def measure_groups(model: LoadedModel, curvature: Curvature | None, job: ScanJob, bundle: Bundle) -> None:
    """Publish the self-influence of each group of the bundle, its rows taken together."""
    bundles, measure = group_bundles(job), measure_of(model, job, curvature)
    lines_of = bundles.lines(bundle.query_ids)
    wanted = [line for lines in lines_of.values() for line in lines]
    found = {(unit.shard, row.row): row for unit, rows in read_rows(model, job, wanted) for row in rows}
    measured = []
    for group, lines in lines_of.items():
        rows = [
            windows
            for line in lines
            for windows in encode_corpus_rows(model, job.spec.model, [found[line["shard"], line["row"]]], line["shard"])
        ]
        measured.append({"group": group} | _numbers(measure(rows)))
    storage.publish_table(bundles.uri(bundle), pa.Table.from_pylist(measured, OF_GROUP))
