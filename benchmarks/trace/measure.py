"""Places of true rows -> MRR and recall, with bootstrap intervals over the queries.

Name suffixes: R rows, Q queries, S bootstrap samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finf_core.fusion import fuse_rankings
from finf_core.scores import Floats
from finf_core.top_k import top_rows

NUM_SAMPLES, CONFIDENCE = 2000, 0.95
LISTED = 100  # rows of each ranking that is fused

Places = Floats  # (Q,): of the true row, from 1; infinite where it is not listed


def places_of(scores_RQ: Floats, true_row_Q: Sequence[int]) -> Places:
    """A row with the score of the true one stands before it."""
    columns = np.arange(len(true_row_Q))
    true_Q = scores_RQ[np.asarray(true_row_Q), columns]
    places: Places = (scores_RQ >= true_Q).sum(axis=0).astype(np.float64)
    return places


def rankings_of(scores_RQ: Floats) -> list[list[int]]:
    """The first `LISTED` rows of each query; a score of 0 or less is not listed."""
    return [
        [row for row in top_rows(scores_R, LISTED).tolist() if scores_R[row] > 0]
        for scores_R in np.asarray(scores_RQ).T
    ]


def places_in(rankings: Sequence[Sequence[int]], true_row_Q: Sequence[int]) -> Places:
    listed = zip(rankings, true_row_Q, strict=True)
    return np.array([ranking.index(row) + 1 if row in ranking else np.inf for ranking, row in listed])


def fused_places(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], true_row_Q: Sequence[int]) -> Places:
    return places_in([fuse_rankings(pair) for pair in zip(first, second, strict=True)], true_row_Q)


def grade_places(places_Q: Places, against_Q: Places | None = None) -> dict[str, Any]:
    """MRR, recall@1 and @10, each with its interval; with `against`, also how far its MRR is from theirs."""
    values = {"mrr": 1 / places_Q, "recall_at_1": 1.0 * (places_Q <= 1), "recall_at_10": 1.0 * (places_Q <= 10)}
    found = {name: _with_interval(value_Q) for name, value_Q in values.items()}
    if against_Q is not None:
        found["mrr_over_bm25"] = _with_interval(1 / places_Q - 1 / against_Q)
    return found


def _with_interval(value_Q: npt.NDArray[np.float64]) -> dict[str, float]:
    drawn_SQ = np.random.default_rng(0).integers(0, len(value_Q), (NUM_SAMPLES, len(value_Q)))
    low, high = np.quantile(value_Q[drawn_SQ].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"mean": float(value_Q.mean()), "low": float(low), "high": float(high)}
