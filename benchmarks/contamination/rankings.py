"""What every method comes down to: for each query its best rows, best first, with their scores.

Name suffixes: R rows, Q queries.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.contamination.inputs import Truth
from finf_core.scores import Floats

NUM_LISTED = 20


class Found(NamedTuple):
    document_id: str
    score: float


Rankings = Mapping[str, Sequence[Found]]  # by query


def rank_matrix(
    scores_RQ: Floats, document_ids: Sequence[str], query_ids: Sequence[str], truths: Mapping[str, Truth]
) -> dict[str, list[Found]]:
    """The best rows of each column. A row that shares nothing (score 0) is not listed; a true row stands behind its
    equals, so that no tie helps."""
    found: dict[str, list[Found]] = {}
    for scores_R, query_id in zip(scores_RQ.T, query_ids, strict=True):
        planted = set(truths[query_id].document_ids)
        listed = np.flatnonzero(scores_R >= np.sort(scores_R)[-min(NUM_LISTED, len(scores_R))]).tolist()
        order = sorted((-scores_R[row], document_ids[row] in planted, row) for row in listed if scores_R[row] > 0)
        found[query_id] = [Found(document_ids[row], -float(score)) for score, _, row in order[:NUM_LISTED]]
    return found


def cached_rankings(path: Path, make: Callable[[], Rankings]) -> dict[str, list[Found]]:
    """Read them, or make and write them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make()))
        partial.rename(path)
    return {query: [Found(*each) for each in rows] for query, rows in json.loads(path.read_text()).items()}
