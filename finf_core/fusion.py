"""Several rankings of the same rows made into one: what model and words say together."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

FUSION_K = 60  # of the paper: how much a first place is worth beside a second

T = TypeVar("T", bound=Hashable)


def fuse_rankings(rankings: Sequence[Sequence[T]]) -> list[T]:
    """Order by the sum of 1 / (60 + place) over the rankings; one that does not list a row adds nothing to it.

    Equal sums stay in the order in which the rankings, one after the other, first name them.

    Source: Cormack, Clarke, Büttcher, SIGIR 2009, "Reciprocal rank fusion".
    """
    sums: dict[T, float] = {}
    for ranking in rankings:
        for place, row in enumerate(ranking, start=1):
            sums[row] = sums.get(row, 0.0) + 1 / (FUSION_K + place)
    return sorted(sums, key=lambda row: -sums[row])
