"""Losses -> scores -> the rows to keep for each query, and the histogram of all.

Name suffixes: R rows, Q queries, K histogram bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finf_core.adjoint import RowChanges
from finf_core.lexical import Overlap
from finf_core.ratio_histogram import count_ratios
from finf_core.scores import Floats, Ints, Others, control_z, influence_score, mirror_ratio, other_ratios, row_ratio
from finf_core.scoring import BaseNats, RowLosses
from finf_core.spec import Direction, RankSpec
from finf_core.top_k import top_rows


@dataclass(frozen=True)
class RankedRows:
    """Scores of a block of rows; a row with a loss that is not finite has NaN for that query and never ranks."""

    base: BaseNats
    base_nats_R: Floats
    num_targets_R: Ints
    score_RQ: Floats  # nats
    mirror_ratio_RQ: Floats
    row_ratio_RQ: Floats
    others: Others
    control_z_RQ: Floats
    overlap: Overlap | None  # None: words were not compared
    kept: list[Ints]  # per query: indices of the rows to keep
    counts_QK: Ints  # histogram of mirror ratios

    @property
    def not_finite(self) -> Ints:
        """Rows that have no score for at least one query."""
        return np.flatnonzero(~np.isfinite(self.score_RQ).all(axis=1)).astype(np.int64)


def rank_rows(
    losses: RowLosses,
    moved_Q: Floats,
    num_query_targets_Q: Ints,
    direction: Direction,
    rank: RankSpec,
    others: Others | None = None,
    overlap: Overlap | None = None,
) -> RankedRows:
    """Score a block of rows for every query and pick the rows to keep: the best by `rank.by`, mirror ratio and words.

    Args:
        moved_Q: nats per target that each query itself moved.
        others: the rows' ratios for other queries, where these are not all among Q.
        overlap: what the rows share with each query in words.
    """
    score_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, direction)
    mirror_RQ = mirror_ratio(losses.span_nats_RQ, num_query_targets_Q, moved_Q)
    row_RQ = row_ratio(score_RQ, losses.num_targets_R, moved_Q)
    return _rank(losses, score_RQ, mirror_RQ, row_RQ, rank, others, overlap)


def rank_changes(
    changes: RowChanges,
    moved_Q: Floats,
    num_query_targets_Q: Ints,
    rank: RankSpec,
    overlap: Overlap | None = None,
) -> RankedRows:
    """The same from first-order changes: what a first pass over the corpus keeps.

    The mirror ratio is judged from the row's best block of positions: a copy that fills it has about 1.

    Args:
        changes: for updates that are signed as scores are (`finf_core.scores.sign`).
        moved_Q: nats per target that each query itself moves under the same update.
    """
    row_RQ = row_ratio(changes.change_RQ, changes.num_targets_R, moved_Q)
    targets_RQ = np.minimum(changes.block_positions_R[:, None], num_query_targets_Q)
    block_RQ = changes.block_change_RQ / (targets_RQ * moved_Q)
    return _rank(changes, changes.change_RQ, block_RQ, row_RQ, rank, None, overlap)


def _rank(
    rows: RowLosses | RowChanges,
    score_RQ: Floats,
    mirror_RQ: Floats,
    row_RQ: Floats,
    rank: RankSpec,
    others: Others | None,
    overlap: Overlap | None,
) -> RankedRows:
    is_finite_RQ = np.isfinite(score_RQ)
    score_RQ, mirror_RQ, row_RQ = (np.where(is_finite_RQ, each, np.nan) for each in (score_RQ, mirror_RQ, row_RQ))
    others = other_ratios(row_RQ) if others is None else others
    z_RQ = control_z(row_RQ, others)
    by_RQ = {"mirror_ratio": mirror_RQ, "row_ratio": row_RQ, "control_z": z_RQ, "score": score_RQ}[rank.by]
    wanted = [(by_RQ, rank.top_k), (mirror_RQ, rank.num_by_ratio), (-by_RQ, rank.opponents_k)]
    wanted += [(np.where(is_finite_RQ & (each_RQ > 0), each_RQ, np.nan), rank.lexical_k) for each_RQ in overlap or ()]
    return RankedRows(
        rows.base,
        rows.base_nats_R,
        rows.num_targets_R,
        score_RQ,
        mirror_RQ,
        row_RQ,
        others,
        z_RQ,
        overlap,
        [_best_of(wanted, query) for query in range(score_RQ.shape[1])],
        count_ratios(mirror_RQ),
    )


def _best_of(wanted: Sequence[tuple[Floats, int]], query: int) -> Ints:
    """The rows that are among the k largest by one of these values or more."""
    best = [top_rows(values_RQ[:, query], k) for values_RQ, k in wanted]
    return np.unique(np.concatenate(best))
