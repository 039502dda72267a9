"""The best rows of each query as a table that can be merged with the tables of other rows."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from finf_core.ranking import RankedRows
from finf_core.scoring import RowLosses
from finf_core.top_k import CANDIDATES
from tasks.corpus import CorpusRow

EXCERPT_CHARACTERS = 600


def candidates_table(
    shard: str, rows: Sequence[CorpusRow], losses: RowLosses, ranked: RankedRows, query_ids: Sequence[str]
) -> pa.Table:
    """One line (`CANDIDATES`) per query and kept row."""
    query = np.repeat(np.arange(len(query_ids)), [len(indices) for indices in ranked.kept])
    row = np.concatenate(ranked.kept) if ranked.kept else np.zeros(0, dtype=np.int64)
    z = ranked.control_z_RQ[row, query]
    columns = {
        "query_id": [query_ids[index] for index in query.tolist()],
        "shard": [shard] * len(row),
        "row": [rows[index].row for index in row],
        "document_id": [rows[index].document_id for index in row],
        "score": ranked.score_RQ[row, query],
        "mirror_ratio": ranked.mirror_ratio_RQ[row, query],
        "row_ratio": ranked.row_ratio_RQ[row, query],
        "control_z": pa.array(z, mask=np.isnan(z)),
        "base_nats": losses.base_nats_R[row],
        "num_targets": losses.num_targets_R[row],
        "text_excerpt": [(rows[index].text or "")[:EXCERPT_CHARACTERS] for index in row],
    }
    return pa.table(columns, schema=CANDIDATES)
