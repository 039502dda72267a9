"""How well rankings find what is known to be there: recall@k and mean reciprocal rank.

A ranking is a sequence of identifiers, best first; it may stop early, and what it does not list was not found.
Every query here has exactly one true row, so its recall@k is 1.0 or 0.0.
"""

from collections.abc import Callable, Hashable, Sequence
from statistics import fmean

from finf_core.errors import InputError

Ranking = Sequence[Hashable]


def rank_of(ranked: Ranking, truth: Hashable) -> int | None:
    """Place of `truth`, from 1; None when the ranking does not list it."""
    return next((place for place, found in enumerate(ranked, start=1) if found == truth), None)


def recall_at_k(ranked: Ranking, truth: Hashable, k: int) -> float:
    """1.0 when `truth` is among the first `k`, else 0.0.

    Raises:
        InputError: k is less than 1.
    """
    if k < 1:
        raise InputError(f"recall@k wants k of at least 1; got {k}")
    return float(truth in ranked[:k])


def reciprocal_rank(ranked: Ranking, truth: Hashable) -> float:
    """1 / place of `truth`; 0.0 when the ranking does not list it."""
    rank = rank_of(ranked, truth)
    return 0.0 if rank is None else 1.0 / rank


def mean_recall_at_k(rankings: Sequence[Ranking], truths: Sequence[Hashable], k: int) -> float:
    """Share of the queries whose true row is among their first `k`.

    Args:
        rankings: one per query.
        truths: the true row of each query, in the same order.

    Raises:
        InputError: no queries, or not one truth per ranking, or k is less than 1.
    """
    return _mean_over_queries(lambda ranked, truth: recall_at_k(ranked, truth, k), rankings, truths)


def mean_reciprocal_rank(rankings: Sequence[Ranking], truths: Sequence[Hashable]) -> float:
    """Mean of 1 / place of the true row (MRR); arguments and errors as in `mean_recall_at_k`."""
    return _mean_over_queries(reciprocal_rank, rankings, truths)


def _mean_over_queries(
    measure: Callable[[Ranking, Hashable], float], rankings: Sequence[Ranking], truths: Sequence[Hashable]
) -> float:
    if not rankings or len(rankings) != len(truths):
        raise InputError(f"want one truth per ranking, and at least one; got {len(rankings)} and {len(truths)}")
    return fmean(measure(ranked, truth) for ranked, truth in zip(rankings, truths, strict=True))
