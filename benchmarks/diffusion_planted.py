"""Planted exemplars: a few training images carry a mark of their own; are they found for another image with the mark?

Name suffixes: M marks, R rows (training images).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.denoisers import SIDE
from finf_core.scores import Floats

MARK_SIDE = 4


@dataclass(frozen=True)
class Planted:
    rows: Tensor  # training images, some with a mark
    queries: Tensor  # (M, 1, 14, 14): one for each mark, of images that are not among the rows
    places: list[list[int]]  # of each mark: the rows that carry it


def plant(rows: Tensor, others: Tensor, num_marks: int, rows_per_mark: int) -> Planted:
    """Paint each mark into a corner of some rows, whatever they show, and of one other image."""
    rng = np.random.default_rng(2)
    chosen = rng.permutation(len(rows))[: num_marks * rows_per_mark].reshape(num_marks, rows_per_mark).tolist()
    marked, queries = rows.clone(), others[:num_marks].clone()
    for number, places in enumerate(chosen):
        mark = torch.from_numpy(rng.choice([-1.0, 1.0], (MARK_SIDE, MARK_SIDE))).float()
        top, left = (SIDE - MARK_SIDE) * (number % 2), (SIDE - MARK_SIDE) * (number // 2 % 2)
        corner = (..., slice(top, top + MARK_SIDE), slice(left, left + MARK_SIDE))
        for image in (*(marked[place] for place in places), queries[number]):
            image[corner] = mark
    return Planted(marked, queries, chosen)


def recall(scores_RM: Floats, places: Sequence[Sequence[int]], most: int) -> float:
    """Share of the marked rows that are among the `most` best for their mark's query."""
    best_MK = np.argsort(-scores_RM, axis=0, kind="stable")[:most].T
    found = [np.isin(planted, best).mean() for planted, best in zip(places, best_MK, strict=True)]
    return float(np.mean(found))
