"""Every row of the corpus by harm to the clean queries, as suspects.parquet in the run's folder.

Two passes over the units' results: one for the forest of outliers, which needs a sample, one for all rows. What stays
in memory is a line of `SCHEMA` for each row, some 100 bytes; the rows' scores for single queries do not.

Name suffixes: R rows of a unit, Q queries, S rows of the sample, N rows of the corpus.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.outliers import LEAST_QUERIES, Outliers
from finf_core.scores import Floats, harm, pull
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.corpus import Unit
from tasks.job import ScanJob
from tasks.joined_scores import JoinedUnit, joined_units
from tasks.queries import read_queries
from tasks.surveys import Survey, labels_survey, read_survey
from tasks.unit_result import RATIOS, row_ratios
from tasks.update_store import read_numbers

READERS = 8
SAMPLE_ROWS = 20_000  # that the forest is grown on, evenly over the corpus

SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),  # 1: the most harmful
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),  # within the shard
        ("document_id", pa.string()),
        ("label", pa.int64()),
        ("suggested_label", pa.int64()),  # the model's most probable class
        ("harm", pa.float64()),  # finf_core.scores.harm
        ("outlier", pa.float64()),  # finf_core.outliers; null with a single query
        ("loss_nats", pa.float64()),
        ("label_probability", pa.float64()),
        ("suggested_probability", pa.float64()),
    ]
)


class Judged(NamedTuple):
    """A unit's rows that have a score for every query, and their ratios for them."""

    unit: Unit
    labels: pa.Table
    ratio_RQ: Floats


def rank_suspects(job: ScanJob) -> str:
    """Publish suspects.parquet; returns its URI."""
    weight_Q, forest = query_weights(job), _grow_forest(job)
    tables = [_lines(judged, weight_Q, forest) for judged in judged_units(job)]
    table = pa.concat_tables(tables).unify_dictionaries()
    order_N = np.argsort(-table["harm"].to_numpy(), kind="stable")  # ties: by shard and row, as units come
    ranked = table.take(pa.array(order_N)).add_column(0, "rank", pa.array(np.arange(1, len(table) + 1)))
    storage.publish_table(job.suspects_uri, ranked.cast(SCHEMA))
    return job.suspects_uri


def query_weights(job: ScanJob) -> Floats:
    """(Q,): `finf_core.scores.pull` of each query."""
    numbers = [read_numbers(job.updates_uri, query.digest) for query in read_queries(job.queries_uri)]
    names = ("num_targets", "moved_nats", "step_size")
    return pull(*(np.array([each[name] for each in numbers], dtype=np.float64) for name in names))


def judged_units(job: ScanJob) -> Iterator[Judged]:
    """The rows of every unit, as the units come."""
    survey = labels_survey(job)
    return bounded_map(lambda joined: _judged(joined, survey), joined_units(job), READERS, 2 * READERS)


def _judged(joined: JoinedUnit, survey: Survey) -> Judged:
    labels = read_survey(survey, joined.unit)
    ratio_RQ = row_ratios(joined.read(RATIOS))[labels["row"].to_numpy() - joined.unit.first_row]
    is_scored_R = np.isfinite(ratio_RQ).all(axis=1)
    return Judged(joined.unit, labels.filter(pa.array(is_scored_R)), ratio_RQ[is_scored_R])


def _grow_forest(job: ScanJob) -> Outliers | None:
    """On every n-th row of the corpus; None where profiles are too short, or there is no row."""
    if len(read_queries(job.queries_uri)) < LEAST_QUERIES:
        return None
    num_rows = sum(joined.unit.num_rows for joined in joined_units(job))
    stride = -(-num_rows // SAMPLE_ROWS)
    sample_SQ = np.concatenate([judged.ratio_RQ[_is_sampled(judged, stride)] for judged in judged_units(job)])
    return Outliers(sample_SQ.astype(np.float32), job.update.seed) if len(sample_SQ) else None


def _is_sampled(judged: Judged, stride: int) -> np.ndarray:
    is_sampled_R: np.ndarray = judged.labels["row"].to_numpy() % stride == 0
    return is_sampled_R


def _lines(judged: Judged, weight_Q: Floats, forest: Outliers | None) -> pa.Table:
    """`SCHEMA` without ranks, a line for each row."""
    num_rows, labels = len(judged.labels), judged.labels
    outlier = pa.nulls(num_rows, pa.float64())
    if forest is not None and num_rows:
        outlier = pa.array(forest.score(judged.ratio_RQ.astype(np.float32)))
    shard = pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_rows, np.int32)), [judged.unit.shard])
    columns = {"shard": shard, "harm": harm(judged.ratio_RQ, weight_Q), "outlier": outlier}
    columns |= {name: labels[name] for name in SCHEMA.names if name in labels.column_names}
    return pa.table([columns[name] for name in SCHEMA.names[1:]], schema=pa.schema(list(SCHEMA)[1:]))
