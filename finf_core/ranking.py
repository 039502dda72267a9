"""Losses -> scores -> the rows to keep for each query, and the histogram of all.

Name suffixes: R rows, Q queries, K histogram bins.
"""

from dataclasses import dataclass

import numpy as np

from finf_core.ratio_histogram import count_ratios
from finf_core.scores import Floats, Ints, control_z, influence_score, mirror_ratio, row_ratio
from finf_core.scoring import RowLosses
from finf_core.spec import Direction, RankSpec
from finf_core.top_k import top_rows


@dataclass(frozen=True)
class RankedRows:
    """Scores of a block of rows; a row with a loss that is not finite has NaN for that query and never ranks."""

    score_RQ: Floats  # nats
    mirror_ratio_RQ: Floats
    row_ratio_RQ: Floats
    control_z_RQ: Floats
    kept: list[Ints]  # per query: indices of the rows to keep
    counts_QK: Ints  # histogram of mirror ratios

    @property
    def not_finite(self) -> Ints:
        """Rows that have no score for at least one query."""
        return np.flatnonzero(~np.isfinite(self.score_RQ).all(axis=1)).astype(np.int64)


def rank_rows(
    losses: RowLosses, moved_Q: Floats, num_query_targets_Q: Ints, direction: Direction, rank: RankSpec
) -> RankedRows:
    """Score a block of rows for every query and pick the rows to keep: the best by `rank.by` and by mirror ratio.

    Args:
        moved_Q: nats per target that each query itself moved.
    """
    score_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, direction)
    score_RQ = np.where(np.isfinite(score_RQ), score_RQ, np.nan)
    mirror_RQ = mirror_ratio(losses.span_nats_RQ, num_query_targets_Q, moved_Q)
    mirror_RQ = np.where(np.isnan(score_RQ), np.nan, mirror_RQ)
    row_RQ = row_ratio(score_RQ, losses.num_targets_R, moved_Q)
    z_RQ = control_z(row_RQ)
    by_RQ = {"mirror_ratio": mirror_RQ, "row_ratio": row_RQ, "control_z": z_RQ}[rank.by]
    kept = [
        np.union1d(top_rows(by_R, rank.top_k), top_rows(mirror_R, rank.top_k))
        for by_R, mirror_R in zip(by_RQ.T, mirror_RQ.T, strict=True)
    ]
    return RankedRows(score_RQ, mirror_RQ, row_RQ, z_RQ, kept, count_ratios(mirror_RQ))
