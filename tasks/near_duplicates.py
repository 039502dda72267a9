"""Groups of near-duplicates in the corpus, from the signatures that the survey left, and which actor takes which.

groups.parquet, in the run's folder: `query_id` (the group's name), shard, row, and the unit that holds the row. Empty
where rows have no signature, or the corpus is larger than `duplicates.most_rows`.
"""

import numpy as np
import pyarrow as pa

from finf_core.near_duplicates import alike_images, alike_texts, groups_of
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bounded_map import bounded_map
from tasks.bundles import Bundles, do_bundles
from tasks.job import ScanJob
from tasks.keep_rows import UNIT_FIELDS, with_units
from tasks.progress import Meter
from tasks.score_shards import kept_units, planned_units
from tasks.surveys import memory_survey, read_survey

READERS = 8
SIGNED = pa.schema([("shard", pa.string()), ("row", pa.int64()), ("signature", pa.binary())])


def group_bundles(job: ScanJob) -> Bundles:
    return Bundles(job.groups_uri, job.group_memory_uri, job.memory_fingerprint)


def find_groups(job: ScanJob) -> str:
    """Publish groups.parquet; returns its URI."""
    places = _signatures(job)
    groups = _groups(places["signature"].to_pylist(), job)
    rows = np.concatenate([np.zeros(0, np.int64), *groups])
    names = [f"group {number}" for number, group in enumerate(groups, start=1) for _ in group]
    lines = places.select(["shard", "row"]).take(pa.array(rows))
    lines = lines.add_column(0, "query_id", pa.array(names, pa.string()))
    by_row = lines.sort_by([("shard", "ascending"), ("row", "ascending")])
    owned = with_units(by_row, planned_units(job))
    storage.publish_table(job.groups_uri, owned.select(["query_id", "shard", "row", *UNIT_FIELDS]))
    return job.groups_uri


def measure_all_groups(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors measure each group; returns the folder of the results."""
    do_bundles("measure_groups", "measure groups", group_bundles(job), pool, meter)
    return job.group_memory_uri


def is_too_large(job: ScanJob) -> bool:
    """Whether no groups are sought."""
    return sum(unit.num_rows for unit in kept_units(job)) > job.spec.duplicates.most_rows


def _signatures(job: ScanJob) -> pa.Table:
    """Shard, row and signature of every row that has one."""
    survey = memory_survey(job)
    tables = [SIGNED.empty_table()]
    units = [] if is_too_large(job) else kept_units(job)
    for unit, table in bounded_map(lambda unit: (unit, read_survey(survey, unit)), units, READERS, 2 * READERS):
        shard = pa.array([unit.shard] * len(table), pa.string())
        found = table.select(["row", "signature"]).replace_schema_metadata(None).add_column(0, "shard", shard)
        tables.append(found)
    table = pa.concat_tables(tables)
    return table.filter(table["signature"].is_valid())


def _groups(signatures: list[bytes], job: ScanJob) -> list[np.ndarray]:
    spec = job.spec.duplicates
    if not signatures:
        return []
    is_text = job.spec.corpus.is_text
    pairs = alike_texts(signatures, spec.shared_words) if is_text else alike_images(signatures, spec.image_distance)
    return list(groups_of(pairs, len(signatures)))
