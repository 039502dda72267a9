"""How many rows have which mirror ratio: fixed bins, so that histograms of shards add up exactly.

Name suffixes: R rows, Q queries, K bins (one below the range, the range, one above).
"""

import numpy as np

from finf_core.scores import Floats, Ints

LOWEST, HIGHEST, BIN_WIDTH = -0.5, 1.5, 0.01
NUM_BINS = round((HIGHEST - LOWEST) / BIN_WIDTH)
EDGES: Floats = np.linspace(LOWEST, HIGHEST, NUM_BINS + 1)


def count_ratios(ratio_RQ: Floats) -> Ints:
    """(Q, K) counts; a ratio that is not finite is not counted."""
    counts_QK = np.zeros((ratio_RQ.shape[1], NUM_BINS + 2), dtype=np.int64)
    for query, ratio_R in enumerate(ratio_RQ.T):
        bins = np.searchsorted(EDGES, ratio_R[np.isfinite(ratio_R)], side="right")
        counts_QK[query] = np.bincount(bins, minlength=NUM_BINS + 2)
    return counts_QK
