"""The nearest matrix of low rank: an update of a large model takes less room than the model.

A query's gradient has at most as many directions as the query has tokens; what the curvature makes of it has nearly
so few. `update.rank` says how many are kept. The cut is a part of the update, not of its storage: the step is solved
with it, so whatever is scored, projected or stored is the same update.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EXACT_UP_TO = 512  # the shorter side; larger matrices are cut by random projections
OVERSAMPLED = 8
POWER_ITERATIONS = 4


def cut_to_rank(tensors: Mapping[str, Tensor], rank: int | None) -> dict[str, Tensor]:
    """Each matrix as the nearest one of this rank; vectors, and all of them where there is no rank, as they are."""
    if rank is None:
        return dict(tensors)
    return {
        name: torch.matmul(*low_rank_factors(tensor, rank)) if is_cut(tensor, rank) else tensor
        for name, tensor in tensors.items()
    }


def is_cut(tensor: Tensor, rank: int) -> bool:
    """Whether the tensor is a matrix that takes less room as two factors."""
    return tensor.ndim == 2 and rank * sum(tensor.shape) < tensor.numel()


def low_rank_factors(matrix_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left (O, rank) and right (rank, I) factors of the nearest matrix of this rank in the Frobenius norm.

    Large matrices: Halko, Martinsson & Tropp 2011, arXiv:0909.4061; the same numbers every time.
    """
    if min(matrix_OI.shape) <= EXACT_UP_TO:
        left_OK, values_K, right_KI = torch.linalg.svd(matrix_OI, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[matrix_OI.device] if matrix_OI.is_cuda else []):
            torch.manual_seed(0)
            found = torch.svd_lowrank(matrix_OI, rank + OVERSAMPLED, POWER_ITERATIONS)
        left_OK, values_K, right_KI = found[0], found[1], found[2].T
    return left_OK[:, :rank] * values_K[:rank], right_KI[:rank]
