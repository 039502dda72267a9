"""The dtype in which sums, losses and products of gradients are taken, and those too coarse for it."""

import torch
from torch import Tensor

COARSE = (torch.bfloat16, torch.float16)


def wide(tensor: Tensor) -> Tensor:
    """float32, or float64 where the model itself is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
