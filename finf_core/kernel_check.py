"""Compiled kernels against the plain ones, before they are trusted: a wrong kernel is a wrong score."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from finf_core.differences import base_nats
from finf_core.errors import CheckpointError
from finf_core.kernels import plain_kernels
from finf_core.moving import block_list, moved
from finf_core.wide import COARSE
from finf_core.windows import Window

if TYPE_CHECKING:
    from finf_core.causal_lm import CausalLM, TokenBatch

NUM_WINDOWS, NUM_TOKENS = 2, 32  # that are compared
LOSS_TOLERANCE, COARSE_LOSS_TOLERANCE = 1e-3, 0.1  # nats per target; the second for weights coarser than float32
SLOPE_TOLERANCE = 0.02  # relative


def check_kernels(adapter: "CausalLM") -> None:
    """Losses, and the slopes of the head, on random tokens; losses with the first block's weights halved too.

    A compiled graph that kept the weights it was compiled with shows in the last.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    num_tokens = min(NUM_TOKENS, adapter.max_context_tokens or NUM_TOKENS)
    ids_BT = np.random.default_rng(0).integers(0, adapter.num_vocabulary, (NUM_WINDOWS, num_tokens + 1))
    batch = adapter.collate([Window(ids_T[:-1], ids_T[1:]) for ids_T in ids_BT])
    name, blocks = block_list(adapter.module)
    gaps = []
    for share in (0.0, -0.5):
        deltas = {f"{name}.0.{key}": share * part for key, part in blocks[0].named_parameters()}
        with moved(adapter.module, deltas):
            [compiled_N] = base_nats(adapter, [batch])
            with plain_kernels():
                [plain_N] = base_nats(adapter, [batch])
        gaps.append(float((compiled_N - plain_N).abs().mean()))
    slopes_BTD, plain_BTD = (_slopes(adapter, batch, plain) for plain in (False, True))
    tolerance = COARSE_LOSS_TOLERANCE if adapter.head.weight.dtype in COARSE else LOSS_TOLERANCE
    if not (max(gaps) <= tolerance and (slopes_BTD - plain_BTD).norm() <= SLOPE_TOLERANCE * plain_BTD.norm()):
        raise CheckpointError(
            f"{type(adapter.model).__name__}: compiled kernels give other losses than plain ones (by {max(gaps):.3g} "
            "nats per target) or other slopes; run with --no-compile"
        )


def _slopes(adapter: "CausalLM", batch: "TokenBatch", plain: bool) -> Tensor:
    """Of the batch's losses, at the plain model's last hidden states."""
    with torch.no_grad(), plain_kernels():
        hidden_BTD = adapter.hidden(batch)
    hidden_BTD.requires_grad_()
    with plain_kernels() if plain else nullcontext(), torch.enable_grad():
        nats = adapter.loss_of_hidden(hidden_BTD, batch).sum_nats.sum()
        return torch.autograd.grad(nats, hidden_BTD)[0]
