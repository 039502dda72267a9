"""The best span of a row: the run of consecutive targets whose loss an update moves most.

Name suffixes: N targets of all rows, row after row; R rows.
"""

import numpy as np

from finf_core.scores import Floats, Ints


def best_span_nats(change_N: Floats, num_targets_R: Ints, span: int) -> Floats:
    """Largest sum over `span` consecutive targets of each row; over the whole row where it has no more than that.

    Args:
        change_N: what each target's loss moved, signed (positive = proponent); one that is not finite counts as 0.
        num_targets_R: adds up to N.

    Returns:
        (R,) nats; 0 for a row without targets.
    """
    ends_R = np.cumsum(num_targets_R)
    starts_R = ends_R - num_targets_R
    until_N = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(change_N), change_N, 0.0))])
    best_R: Floats = until_N[ends_R] - until_N[starts_R]
    longer_R = num_targets_R > span
    if longer_R.any():
        sums = np.append(until_N[span:] - until_N[:-span], -np.inf)  # of the span that starts at each target
        bounds = np.stack([starts_R[longer_R], ends_R[longer_R] - span + 1], axis=1)
        best_R[longer_R] = np.maximum.reduceat(sums, bounds.ravel())[::2]
    return best_R


def best_span(change_T: Floats, span: int) -> tuple[int, int]:
    """Where the best span of one row of T targets begins and ends (exclusive); the first of several."""
    if len(change_T) <= span:
        return 0, len(change_T)
    until = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(change_T), change_T, 0.0))])
    start = int(np.argmax(until[span:] - until[:-span]))
    return start, start + span
