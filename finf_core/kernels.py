"""Where the eager model is slow on a GPU: blocks compiled, and the head's logits in float32 and in few passes.

| part | eager | here |
|---|---|---|
| a block | a kernel for every small operation | one compiled graph for all blocks (`compile_blocks`) |
| logits of half-precision weights | rounded to them: 0.013 nats a target lost | float32, as the product adds up in |
| softmax and loss of a chunk | its logits read and written ten times | read once or twice (`compiled_nats`) |
| slopes of the hidden states | the same, backwards | probabilities once, one product (`compiled_slopes`) |

What is compiled computes the same numbers to rounding, of moved weights too (they are inputs of the graph); `CausalLM`
checks that before it trusts it. Compiled graphs have neither hooks nor derivatives: a block with a hook inside, or one
whose gradient is wanted, runs as it is, and inside `plain_kernels` all do.

Name suffixes: C targets of a chunk, D hidden units, V vocabulary entries. Figures: docs/PERFORMANCE.md, "On a GPU".
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from finf_core.moving import block_list
from finf_core.wide import COARSE, wide

_plain = ContextVar("plain_kernels", default=False)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Nothing compiled or fused inside: forward-mode derivatives know plain operations only."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class CompiledForward:
    """A block's forward pass, compiled; as it is where a compiled graph would leave something out."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.plain = block, block.forward
        self.compiled = torch.compile(block.forward, dynamic=True)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        run = self.plain if _plain.get() or self._is_watched((*arguments, *keywords.values())) else self.compiled
        return run(*arguments, **keywords)

    def _is_watched(self, arguments: tuple[Any, ...]) -> bool:
        """Whether someone records what happens inside, or asks for its gradient."""
        if any(
            part._forward_hooks or part._forward_pre_hooks for part in self.block.modules() if part is not self.block
        ):
            return True
        wanted = (*arguments, *self.block.parameters())
        return torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in wanted)


def compile_blocks(module: nn.Module) -> None:
    """Let every block of the model run compiled from now on; the first batch of a new kind compiles."""
    for block in block_list(module)[1]:
        vars(block)["forward"] = CompiledForward(block)


def head_logits(head: Callable[[Tensor], Tensor], hidden_CD: Tensor) -> Tensor:
    """Logits in float32, or float64 where the model is; not for autograd.

    Half-precision weights on a GPU are multiplied into float32 at once, where the head is a plain linear layer.
    """
    if hidden_CD.is_cuda and hidden_CD.dtype in COARSE and is_bare_linear(head):
        logits_CV = torch.mm(hidden_CD, head.weight.T, out_dtype=torch.float32)
        return logits_CV if head.bias is None else logits_CV + head.bias
    return wide(head(hidden_CD))


def is_bare_linear(head: object) -> TypeGuard[nn.Linear]:
    """A linear layer that nobody listens to, outside of `plain_kernels`."""
    return type(head) is nn.Linear and not (head._forward_hooks or head._forward_pre_hooks or _plain.get())


@cache
def compiled_nats() -> Callable[[Tensor, Tensor], Tensor]:
    """(logits (C, V), labels (C,)) to nats (C,)."""
    return torch.compile(_nats, dynamic=True)


@cache
def compiled_slopes() -> Callable[[Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]]:
    """(logits (C, V), labels (C,), dtype) to nats (C,) and the probabilities (C, V) in that dtype."""
    return torch.compile(_nats_and_probabilities, dynamic=True)


def nats_and_slopes(head: nn.Linear, hidden_CD: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of each target, and their gradient with respect to its hidden state (C, D): Σ_v p_v w_v − w_label."""
    logits_CV = head_logits(head, hidden_CD)
    nats_C, probabilities_CV = compiled_slopes()(logits_CV, labels_C, hidden_CD.dtype)
    return nats_C, probabilities_CV @ head.weight - head.weight[labels_C]


def _nats(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    return logits_CV.logsumexp(-1) - logits_CV.gather(1, labels_C[:, None])[:, 0]


def _nats_and_probabilities(logits_CV: Tensor, labels_C: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    normalizer_C = logits_CV.logsumexp(-1)
    nats_C = normalizer_C - logits_CV.gather(1, labels_C[:, None])[:, 0]
    return nats_C, (logits_CV - normalizer_C[:, None]).exp().to(dtype)
