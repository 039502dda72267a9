"""Per-example loss: the one number that every influence score here is made of.

Name suffixes say the shape: B examples, T token positions, N target positions, D hidden
units, V vocabulary entries. Losses are sums in nats, not means: windows of a long document
then add up exactly, and the caller divides once, at the very end (`finf_core.scores.mean_loss`).
Each position is taken in float32, the sum in float64: a score is a difference of two sums.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finf_core.errors import InputError
from finf_core.kernels import compiled_nats, head_logits, is_bare_linear, nats_and_slopes
from finf_core.wide import wide

IGNORE_INDEX = -100  # label of a position with nothing to predict: padding, context
CHUNK_LOGITS = 1 << 21  # logits alive at once; 8 MiB in float32, so a CPU's cache helps
GPU_CHUNK_LOGITS = 1 << 27  # fewer reads of the head, fewer kernels; 1.3 GiB with what the loss makes of them


class ExampleLoss(NamedTuple):
    sum_nats: Tensor  # (B,) float64
    num_targets: Tensor  # (B,) int64
    target_nats: Tensor | None = (
        None  # (targets of all examples,) float32, example by example; None: sums are all there is
    )


def per_example_loss(logits_BTV: Tensor, labels_BT: Tensor) -> ExampleLoss:
    """Sum the cross-entropy of each example on its own.

    Args:
        logits_BTV: any float dtype; the softmax is taken in float32, the sum in float64.
        labels_BT: int64, already shifted: `labels_BT[b, t]` is the token that
            `logits_BTV[b, t]` predicts, or `IGNORE_INDEX`.

    Returns:
        Nats and target counts per example. An example without targets gives 0.0 and 0.

    Raises:
        InputError: logits and labels disagree in shape.

    Source: Ko et al., CVPR 2024, arXiv:2402.08922: a forward pass per training example reads nothing else.
    """
    if logits_BTV.ndim != 3 or logits_BTV.shape[:2] != labels_BT.shape:
        got = f"logits {tuple(logits_BTV.shape)}, labels {tuple(labels_BT.shape)}"
        raise InputError(f"per_example_loss wants logits (B, T, V) and labels (B, T); got {got}")
    nats_N = _nats(logits_BTV.flatten(0, 1), labels_BT.flatten())
    nats_BT, is_target_BT = nats_N.view_as(labels_BT), labels_BT != IGNORE_INDEX
    return ExampleLoss(nats_BT.double().sum(dim=1), is_target_BT.sum(dim=1), nats_BT[is_target_BT])


def chunked_example_loss(
    hidden_BTD: Tensor,
    head: Callable[[Tensor], Tensor],
    num_vocabulary: int,
    labels_BT: Tensor,
    places_N: Tensor | None = None,
    compiled: bool = False,
) -> ExampleLoss:
    """The same number as `per_example_loss(head(hidden), labels)` without the logits of the whole batch.

    Only target positions are projected, `chunk_targets` of them at a time, and no chunk's logits outlive it:
    under autograd what the hidden states need is found in the forward pass, while they are there; where the head's own
    weights want a gradient, they are computed again in the backward pass.

    Args:
        hidden_BTD: what the language-model head reads.
        head: (N, D) to (N, V).
        labels_BT: as in `per_example_loss`.
        places_N: `target_places(labels_BT)`, where it is known: finding it makes the host wait for the device.
        compiled: take the passes over the logits in compiled kernels (`finf_core.kernels`).
    """
    places_N = target_places(labels_BT) if places_N is None else places_N
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, places_N)
    labels_N = labels_BT.flatten().index_select(0, places_N)
    chunk = chunk_targets(num_vocabulary, hidden_BTD.device)
    of_chunk: Callable[[Tensor, Tensor], Tensor]
    if not torch.is_grad_enabled():
        of_chunk = partial(_chunk_nats, head, compiled)
    elif isinstance(head, nn.Module) and not any(weight.requires_grad for weight in head.parameters()):
        of_chunk = partial(_FrozenHeadNats.apply, head, compiled)
    else:
        of_chunk = partial(checkpoint, lambda *chunk: _nats(head(chunk[0]), chunk[1]), use_reentrant=False)
    nats_N = torch.cat(list(map(of_chunk, hidden_ND.split(chunk), labels_N.split(chunk))))
    return _of_examples(nats_N, places_N, labels_BT)


def target_places(labels_BT: Tensor) -> Tensor:
    """(N,) int64: where the targets are in the flattened batch."""
    return (labels_BT.flatten() != IGNORE_INDEX).nonzero()[:, 0]


def sampled_example_loss(
    hidden_BTD: Tensor,
    head: nn.Module,
    num_vocabulary: int,
    labels_BT: Tensor,
    generator: torch.Generator,
    places_N: Tensor | None = None,
) -> ExampleLoss:
    """The loss on labels drawn from the model's own distribution, in chunks as above; each logit is computed once.

    The same number and slopes as `chunked_example_loss` on labels that `draw_labels` drew with this generator; those
    given say only where the targets are. The head's own weights get no gradient.
    """
    places_N = target_places(labels_BT) if places_N is None else places_N
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, places_N)
    chunks = hidden_ND.split(chunk_targets(num_vocabulary, hidden_BTD.device))
    of_chunk: Callable[..., Tensor] = _FrozenHeadNats.apply
    nats_N = torch.cat([of_chunk(head, False, hidden_CD, generator) for hidden_CD in chunks])
    return _of_examples(nats_N, places_N, labels_BT)


def draw_labels(probabilities_NV: Tensor, generator: torch.Generator) -> Tensor:
    """A label for each target: the first whose cumulated probability exceeds a random number.

    `torch.multinomial` draws a random number for every entry of the vocabulary: 20 times as slow on a CPU.
    """
    cumulated_NV = probabilities_NV.cumsum(-1)
    uniform_N1 = torch.rand(
        (len(cumulated_NV), 1), dtype=cumulated_NV.dtype, device=cumulated_NV.device, generator=generator
    )
    labels_N1 = torch.searchsorted(cumulated_NV, uniform_N1 * cumulated_NV[:, -1:], right=True)
    return labels_N1[:, 0].clamp_(max=cumulated_NV.shape[1] - 1)  # a product that was rounded up to the very end


def log_probabilities(logits_NV: Tensor) -> Tensor:
    """In float32, or float64 where the logits are."""
    return wide(logits_NV).log_softmax(-1)


def chunk_targets(num_vocabulary: int, device: torch.device) -> int:
    """How many targets' logits may be alive at once."""
    return max(1, (CHUNK_LOGITS if device.type == "cpu" else GPU_CHUNK_LOGITS) // num_vocabulary)


def _of_examples(nats_N: Tensor, places_N: Tensor, labels_BT: Tensor) -> ExampleLoss:
    zeros = torch.zeros(labels_BT.numel(), dtype=nats_N.dtype, device=nats_N.device)
    nats_BT = zeros.scatter(0, places_N, nats_N).view_as(labels_BT)
    return ExampleLoss(nats_BT.double().sum(dim=1), (labels_BT != IGNORE_INDEX).sum(dim=1), nats_N)


class _FrozenHeadNats(torch.autograd.Function):
    """Nats of a chunk's targets, with their slopes taken at once: each depends on its own hidden state alone.

    The backward pass only scales the slopes. The head runs forward once and backward once; checkpointing would run it
    forward twice. Instead of labels a generator may be given: they are drawn from these very logits then.
    """

    @staticmethod
    def forward(
        ctx: Any, head: nn.Module, compiled: bool, hidden_CD: Tensor, given: Tensor | torch.Generator
    ) -> Tensor:
        if compiled and is_bare_linear(head) and isinstance(given, Tensor):
            nats_C, slope_CD = nats_and_slopes(head, hidden_CD, given)
            ctx.save_for_backward(slope_CD)
            return nats_C
        with torch.enable_grad():
            leaf_CD = hidden_CD.detach().requires_grad_()
            logits_CV = head(leaf_CD)
        log_CV = log_probabilities(logits_CV.detach())
        slopes_CV = log_CV.exp()
        labels_C = draw_labels(slopes_CV, given) if isinstance(given, torch.Generator) else given
        slopes_CV.scatter_add_(1, labels_C[:, None], slopes_CV.new_full((len(labels_C), 1), -1.0))  # p − one-hot
        logits_CV.backward(slopes_CV.to(logits_CV.dtype))
        ctx.save_for_backward(leaf_CD.grad)
        return -log_CV.gather(1, labels_C[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor, None]:
        (slope_CD,) = ctx.saved_tensors
        return None, None, gradients[0].to(slope_CD.dtype)[:, None] * slope_CD, None


def _chunk_nats(head: Callable[[Tensor], Tensor], compiled: bool, hidden_CD: Tensor, labels_C: Tensor) -> Tensor:
    logits_CV = head_logits(head, hidden_CD)
    return compiled_nats()(logits_CV, labels_C) if compiled and is_bare_linear(head) else _nats(logits_CV, labels_C)


def _nats(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    return F.nll_loss(log_probabilities(logits_NV), labels_N, ignore_index=IGNORE_INDEX, reduction="none")
