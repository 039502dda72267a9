"""Rows that a group of queries moves unlike the others: an isolation forest over their score profiles.

A profile is what a row scores for each of several clean queries. Most rows agree with the queries and move little;
a row with a wrong label moves against some of them. Stands for *Outlier Gradient Analysis* (Chhabra et al. 2024,
arXiv:2405.03869), which isolates the gradients of training rows: a profile is such a gradient seen from the queries,
so no row's gradient is taken.

Name suffixes: R rows, Q queries.
"""

import numpy as np
import numpy.typing as npt

from finf_core.scores import Floats

NUM_TREES = 200
LEAST_QUERIES = 2  # one number has no shape to be an outlier of


class Outliers:
    """Fitted on some rows' profiles (R, Q) without NaN, scores any."""

    def __init__(self, profile_RQ: npt.NDArray[np.floating], seed: int) -> None:
        from sklearn.ensemble import IsolationForest  # a second, which a run without it need not wait for

        self._forest = IsolationForest(n_estimators=NUM_TREES, random_state=seed).fit(profile_RQ)

    def score(self, profile_RQ: npt.NDArray[np.floating]) -> Floats:
        """(R,): 0 to 1, larger for a row that fewer cuts set apart; about 0.5 is ordinary."""
        score_R: Floats = -self._forest.score_samples(profile_RQ)
        return score_R
