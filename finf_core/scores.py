"""What a score is. The sign convention stands here and nowhere else: positive = proponent.

Name suffixes: R rows, Q queries.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finf_core.spec import Direction

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPREAD_FLOOR = 0.01  # row ratio; a row that moves for no query at all has no z-score to speak of


def sign(direction: Direction) -> float:
    """+1 for ascent (unlearn the query), −1 for descent (learn it): the s of every formula."""
    return 1.0 if direction == "ascent" else -1.0


def influence_score(base_nats: Floats, mirrored_nats: Floats, direction: Direction) -> Floats:
    """s · (l(z; θ_q) − l(z; θ*)) in nats: positive when unlearning the query hurts the row.

    Source: Ko et al., CVPR 2024, arXiv:2402.08922, equation 5, with its sign kept.
    """
    with np.errstate(invalid="ignore"):  # inf − inf: the ranking keeps such a row out
        return sign(direction) * (mirrored_nats - base_nats)


def mean_loss(sum_nats: Floats, num_targets: Ints) -> Floats:
    """Nats per target; 0 where there are no targets."""
    return np.divide(sum_nats, num_targets, out=np.zeros_like(sum_nats), where=num_targets > 0)


def row_ratio(score_RQ: Floats, num_targets_R: Ints, moved_Q: Floats) -> Floats:
    """Nats per target that a whole row loses for each nat per target that the query loses.

    The best order of rows for a query that was reworded; a copy inside a longer row is diluted.

    Args:
        score_RQ: `influence_score` of each row for each query, nats.
        moved_Q: the query's own `influence_score` divided by its targets; positive.
    """
    return mean_loss(score_RQ, np.broadcast_to(num_targets_R[:, None], score_RQ.shape)) / moved_Q


def mirror_ratio(span_nats_RQ: Floats, num_query_targets_Q: Ints, moved_Q: Floats) -> Floats:
    """The same for the row's best span of as many targets as the query has: 1 for an exact copy, else about 0.

    A copy scores 1 however much text surrounds it, and whichever part of the query its loss mask leaves.
    A row with fewer targets than the query is measured against all of the query's.

    Args:
        span_nats_RQ: `finf_core.spans.best_span_nats` of each row for each query.
    """
    return span_nats_RQ / (num_query_targets_Q * moved_Q)


def harm(ratio_RQ: Floats, weight_Q: Floats) -> Floats:
    """(R,): nats per target that a row *gains* for each that the queries lose together; positive = it hurts them.

    An opponent: what makes the model worse on the queries makes it better on the row. Weighted by `pull`, the queries'
    ratios add up to what one group of all of them would give, to first order.
    """
    harm_R: Floats = -(ratio_RQ @ weight_Q) / weight_Q.sum()
    return harm_R


def pull(num_targets_Q: Floats, moved_Q: Floats, step_Q: Floats) -> Floats:
    """What each query adds to the update of all of them: its targets times its slope along its own update.

    Args:
        moved_Q: nats per target that each query moved.
        step_Q: the step that moved it so far.
    """
    return num_targets_Q * moved_Q / step_Q


class Others(NamedTuple):
    """What a row's ratios for all other queries look like; NaN where there are fewer than two."""

    mean_RQ: Floats
    spread_RQ: Floats  # standard deviation


def other_ratios(ratio_RQ: Floats) -> Others:
    """Row by row, for each query: mean and spread of the row's ratios for the other queries."""
    num_others = ratio_RQ.shape[1] - 1
    if num_others < 2:
        unknown_RQ = np.full_like(ratio_RQ, np.nan)
        return Others(unknown_RQ, unknown_RQ)
    mean_RQ = (ratio_RQ.sum(axis=1, keepdims=True) - ratio_RQ) / num_others
    squares_RQ = ((ratio_RQ**2).sum(axis=1, keepdims=True) - ratio_RQ**2) / num_others
    return Others(mean_RQ, np.sqrt(np.maximum(0.0, squares_RQ - mean_RQ**2)))


def control_z(ratio_RQ: Floats, others: Others) -> Floats:
    """How far a row's ratio for one query stands out from its ratios for all other queries.

    (ρ − mean of the others) / spread of the others, row by row, which removes rows that move for every query.
    """
    z_RQ: Floats = (ratio_RQ - others.mean_RQ) / np.sqrt(others.spread_RQ**2 + SPREAD_FLOOR**2)
    return z_RQ
