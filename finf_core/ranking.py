"""Losses -> scores -> the best rows of each query and the histogram of all.

Name suffixes: R rows, Q queries, K histogram bins.
"""

from dataclasses import dataclass

import numpy as np

from finf_core.ratio_histogram import count_ratios
from finf_core.score_rows import RowLosses
from finf_core.scores import Floats, Ints, control_z, influence_score, mirror_ratio
from finf_core.spec import Direction, RankSpec
from finf_core.top_k import top_rows


@dataclass(frozen=True)
class RankedRows:
    """Scores of a block of rows; a row with a loss that is not finite has NaN for that query and never ranks."""

    score_RQ: Floats  # nats
    mirror_ratio_RQ: Floats
    control_z_RQ: Floats
    top: list[Ints]  # per query: indices of its best rows, best first
    counts_QK: Ints

    @property
    def not_finite(self) -> Ints:
        """Rows that have no score for at least one query."""
        return np.flatnonzero(~np.isfinite(self.score_RQ).all(axis=1)).astype(np.int64)


def rank_rows(losses: RowLosses, moved_Q: Floats, direction: Direction, rank: RankSpec) -> RankedRows:
    """Score a block of rows for every query and pick each query's `rank.top_k` best.

    Args:
        moved_Q: nats per target that each query itself moved.
    """
    with np.errstate(invalid="ignore"):  # inf − inf: the row is kept out below
        score_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, direction)
    score_RQ = np.where(np.isfinite(score_RQ), score_RQ, np.nan)
    ratio_RQ = mirror_ratio(score_RQ, losses.num_targets_R, moved_Q)
    z_RQ = control_z(ratio_RQ)
    by_RQ = ratio_RQ if rank.by == "mirror_ratio" else z_RQ
    top = [top_rows(by_R, rank.top_k) for by_R in by_RQ.T]
    return RankedRows(score_RQ, ratio_RQ, z_RQ, top, count_ratios(ratio_RQ))
