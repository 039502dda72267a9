"""The best rows of each query as a table that can be merged with the tables of other rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from finf_core.lexical import Overlap
from finf_core.ranking import RankedRows
from finf_core.scores import Floats, Ints
from finf_core.top_k import CANDIDATES, LEXICAL
from tasks.corpus import CorpusRow
from tasks.row_text import row_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXCERPT_CHARACTERS = 600


def candidates_table(
    shards: Sequence[str],
    rows: Sequence[CorpusRow],
    ranked: RankedRows,
    query_ids: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    with_excerpts: bool = True,
) -> pa.Table:
    """One line (`CANDIDATES`) per query and kept row.

    Args:
        shards: of each row.
        tokenizer: gives the excerpts of rows that hold token ids; without it they are empty.
        with_excerpts: they are most of a line; a pass that only chooses rows leaves them out (null).
    """
    query = np.repeat(np.arange(len(query_ids)), [len(indices) for indices in ranked.kept])
    row = np.concatenate(ranked.kept) if ranked.kept else np.zeros(0, dtype=np.int64)
    distinct, place = np.unique(row, return_inverse=True)  # a row kept for many queries is looked at once
    kept = [rows[index] for index in distinct.tolist()]
    columns = {
        "query_id": _spread(list(query_ids), query),
        "shard": _spread([shards[index] for index in distinct.tolist()], place),
        "row": _spread([each.row for each in kept], place),
        "document_id": _spread([each.document_id for each in kept], place),
        "score": ranked.score_RQ[row, query],
        "mirror_ratio": ranked.mirror_ratio_RQ[row, query],
        "row_ratio": ranked.row_ratio_RQ[row, query],
        "control_z": _known(ranked.control_z_RQ[row, query]),
        "others_mean": _known(ranked.others.mean_RQ[row, query]),
        "others_spread": _known(ranked.others.spread_RQ[row, query]),
        **_lexical(ranked.overlap, row, query),
        "base_nats": ranked.base_nats_R[row],
        "num_targets": ranked.num_targets_R[row],
        "text_excerpt": _spread([_excerpt(each, tokenizer) if with_excerpts else None for each in kept], place),
    }
    return pa.table(columns, schema=CANDIDATES)


def _lexical(overlap: Overlap | None, row: Ints, query: Ints) -> dict[str, pa.Array]:
    if overlap is None:
        return {name: pa.nulls(len(row), pa.float64()) for name in LEXICAL}
    return {name: _known(values_RQ[row, query]) for name, values_RQ in zip(LEXICAL, overlap, strict=True)}


def _known(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _spread(values: list[Any], indices: Ints) -> pa.Array:
    return pa.array(values).take(pa.array(indices)) if values else pa.nulls(0)


def _excerpt(row: CorpusRow, tokenizer: Any) -> str:
    return row_text(row, tokenizer, EXCERPT_CHARACTERS)[:EXCERPT_CHARACTERS]
