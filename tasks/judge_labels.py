"""What the model makes of each row's label: its probability, and the class that the model would give.

Name suffixes: R rows, C classes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from finf_core.classifier import Classifier, Labeled
from tasks import storage
from tasks.corpus import CorpusRow, Unit
from tasks.items import LABEL
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.read_ahead import read_ahead
from tasks.row_groups import GROUPS_AHEAD, RowGroup, prepare_row_groups
from tasks.surveys import labels_survey

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # within the shard
        ("document_id", pa.string()),
        ("label", pa.int64()),
        ("label_probability", pa.float64()),
        ("suggested_label", pa.int64()),  # the model's most probable class
        ("suggested_probability", pa.float64()),
        ("loss_nats", pa.float64()),
    ]
)


def judge_labels_of_unit(model: LoadedModel, job: ScanJob, unit: Unit) -> int:
    """Publish the judgement of every row that can be scored; returns how many there are."""
    if not isinstance(model.adapter, Classifier):
        raise TypeError(f"labels, and a model of {type(model.adapter).__name__}")
    with read_ahead(prepare_row_groups(model, job, unit), GROUPS_AHEAD) as groups:
        tables = [_judge_row_group(model.adapter, group, model.batch_tokens) for group in groups]
    table = pa.concat_tables(tables)
    storage.publish_table(labels_survey(job).uri(unit), table)
    return len(table)


def _judge_row_group(adapter: Classifier, group: RowGroup, batch_rows: int) -> pa.Table:
    images = [image for row in group.windows for image in row]
    return judged_table(group.good, _log_probabilities(adapter, images, batch_rows))


def _log_probabilities(adapter: Classifier, images: Sequence[Labeled], batch_rows: int) -> torch.Tensor:
    """(R, C), float64."""
    starts = range(0, len(images), batch_rows)
    blocks = [adapter.log_probabilities(adapter.collate(images[start : start + batch_rows])).cpu() for start in starts]
    return torch.cat(blocks) if blocks else torch.zeros(0, 1, dtype=torch.float64)


def judged_table(rows: Sequence[CorpusRow], log_probability_RC: torch.Tensor) -> pa.Table:
    """`SCHEMA`, a line for each row."""
    log_RC = log_probability_RC.numpy()
    label_R = np.array([(row.item or {})[LABEL] for row in rows], dtype=np.int64)
    given_R, suggested_R = log_RC[np.arange(len(rows)), label_R], log_RC.argmax(axis=1)
    columns = {
        "row": [row.row for row in rows],
        "document_id": [row.document_id for row in rows],
        "label": label_R,
        "label_probability": np.exp(given_R),
        "suggested_label": suggested_R,
        "suggested_probability": np.exp(log_RC.max(axis=1)),
        "loss_nats": -given_R,
    }
    return pa.table(columns, schema=SCHEMA)
