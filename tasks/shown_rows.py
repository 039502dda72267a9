"""Which listed rows the report shows the words of: they are read again and explained, token by token (`tasks.explain`).

shown.parquet, in the run's folder: query_id, shard, row, shared, and the unit that holds the row; leaked queries first.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.spec import ScanSpec
from finf_core.top_k import is_among_best
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bundles import Bundles, do_bundles
from tasks.job import ScanJob
from tasks.keep_rows import UNIT_FIELDS, with_units
from tasks.memorized import rows_to_show
from tasks.progress import Meter
from tasks.queries import read_queries
from tasks.score_shards import planned_units

ROWS_A_QUERY = 3  # by rank, and as many by their words; beside them the best by mirror ratio, and every copy
LEAST_SHARED = 1e-9  # any sequence of words
MOST_ROWS = 3000  # in all: a report holds some 6 kB for each


def shown_bundles(job: ScanJob) -> Bundles:
    return Bundles(job.shown_uri, job.evidence_uri, job.evidence_fingerprint)


def explain_rows(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Choose the rows that are shown and have the actors explain them; returns the folder of their results."""
    publish_shown(job)
    do_bundles("explain", "explain rows", shown_bundles(job), pool, meter)
    return job.evidence_uri


def publish_shown(job: ScanJob) -> None:
    if job.spec.kind == "mislabel":
        suspects = storage.read_table(job.suspects_uri)
        lines = lines_to_show(suspects.slice(0, job.spec.rank.top_k), read_queries(job.queries_uri)[0].query_id)
    elif job.spec.kind == "memorize":
        chosen = rows_to_show(storage.read_table(job.memorized_uri), job.spec)
        lines = pa.concat_tables([lines_to_show(rows, name, order) for order, (name, rows) in enumerate(chosen)])
    else:
        verdicts = storage.read_table(job.file("queries.parquet"))
        lines = choose_shown(storage.read_table(job.file("top.parquet")), verdicts, job.spec)
    by_row = lines.sort_by([("shard", "ascending"), ("row", "ascending")])
    owned = with_units(by_row, planned_units(job)).sort_by([("order", "ascending"), ("rank", "ascending")])
    storage.publish_table(job.shown_uri, owned.select(["query_id", "shard", "row", "shared", *UNIT_FIELDS]))


def choose_shown(top: pa.Table, verdicts: pa.Table, spec: ScanSpec) -> pa.Table:
    """Lines of top.parquet, with the `order` of their query: leaked ones first, each group by its statistic.

    Args:
        verdicts: queries.parquet; controls are not shown.
    """
    asked = verdicts.filter(pc.invert(verdicts["is_control"]))
    asked = asked.sort_by([("leaked", "descending"), ("statistic", "descending"), ("query_id", "ascending")])
    order = pc.index_in(top["query_id"], value_set=asked["query_id"])
    is_shown = is_among_best(top, "mirror_ratio", 1) | is_among_best(top, spec.rank.by, ROWS_A_QUERY)
    is_shown |= _at_least(top["shared"], LEAST_SHARED) & is_among_best(top, "shared", ROWS_A_QUERY)
    is_shown |= _at_least(top["shared"], spec.verdict.shared_from)
    is_shown |= _at_least(top["mirror_ratio"], spec.verdict.copied_from)
    if not spec.is_scan:  # all that was kept
        is_shown = np.ones(len(top), dtype=np.bool_)
    shown = top.append_column("order", order).filter(pa.array(is_shown & order.is_valid().to_numpy()))
    counts = np.bincount(shown["order"].to_numpy(), minlength=len(asked))
    num_queries = int(np.searchsorted(np.cumsum(counts), MOST_ROWS, side="right"))
    return shown.filter(pc.less(shown["order"], num_queries))


def lines_to_show(rows: pa.Table, name: str, order: int = 0) -> pa.Table:
    """Ranked rows, as lines of one query (or of what stands in its place): they are read again by query."""
    shown = rows.slice(0, MOST_ROWS).select(["shard", "row", "rank"])
    shown = shown.set_column(0, "shard", shown["shard"].cast(pa.string()))
    shown = shown.append_column("query_id", pa.array([name] * len(shown), pa.string()))
    shown = shown.append_column("shared", pa.nulls(len(shown), pa.float64()))
    return shown.append_column("order", pa.array([order] * len(shown), pa.int64()))


def _at_least(values: pa.ChunkedArray, limit: float) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.greater_equal(values, limit).fill_null(False).to_numpy()
    return found
