"""Kronecker-factored curvature (K-FAC): the Fisher matrix of each linear layer as a product of two small ones.

For a layer y = W a with gradient g = ∂nats/∂y at one position, the layer's Fisher block is
E[(a aᵀ) ⊗ (g gᵀ)] ≈ A ⊗ G with A = E[a aᵀ], G = E[g gᵀ]. A bias is one more input that is always 1.
Name suffixes: P positions, I inputs (with the bias' 1), O outputs of a layer.

Sources: Martens & Grosse 2015, arXiv:1503.05671; damping relative to the mean eigenvalue as in
Grosse et al. 2023, arXiv:2308.03296, section 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.losses import ExampleLoss


class KroneckerFactors(NamedTuple):
    """Eigendecompositions of A (inputs) and G (output gradients) of one layer; float64."""

    input_values_I: Tensor
    input_vectors_II: Tensor
    output_values_O: Tensor
    output_vectors_OO: Tensor


@dataclass
class _Sums:
    """Running sums of one layer over positions, in float64: E[·] up to the division by the count."""

    inputs_II: Tensor
    outputs_OO: Tensor


def factored_layers(module: nn.Module, moving: Iterable[str], without: nn.Module | None = None) -> dict[str, nn.Module]:
    """The layers that get Kronecker factors: linear, with a moving weight, and not `without`.

    `without` is the language-model head: a vocabulary x vocabulary factor is never formed. Under K-FAC
    the head, embeddings and norms stay where they are.
    """
    names = set(moving)
    tied = None if without is None else without.weight
    return {
        name: layer
        for name, layer in module.named_modules()
        if _is_linear(layer) and f"{name}.weight" in names and layer.weight is not tied
    }


def fit_kronecker_factors(
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Any, Tensor]],
    loss: Callable[[Any], ExampleLoss],
) -> dict[str, KroneckerFactors]:
    """Fit A and G of every layer on batches of (batch, positions that are not padding (B, T)).

    The gradient is that of the summed loss, so each position's g is its own; A and G average over the same positions.

    Raises:
        InputError: no layer to factor, or no batch.
    """
    if not layers:
        raise InputError("K-FAC found no linear layer among the moving parameters; choose update.moves otherwise")
    sums, num_positions = _empty_sums(layers), 0
    for batch, is_input_BT in batches:
        with _recording(layers, sums, is_input_BT), torch.enable_grad():
            loss(batch).sum_nats.sum().backward()
        num_positions += int(is_input_BT.sum())
    if num_positions == 0:
        raise InputError("K-FAC needs at least one row to fit its factors on")
    return {name: _decompose(sums[name], num_positions) for name in layers}


def precondition(
    layer: nn.Module, gradients: Mapping[str, Tensor], factors: KroneckerFactors, damping: float
) -> dict[str, Tensor]:
    """(A ⊗ G + λ)⁻¹ applied to the gradient of one layer, λ = damping · mean eigenvalue of A ⊗ G.

    Args:
        gradients: "weight" and, where the layer has one, "bias", shaped like the parameters.

    Returns:
        The same keys and shapes.
    """
    gradient_OI = _as_output_by_input(layer, gradients["weight"])
    if "bias" in gradients:
        gradient_OI = torch.cat([gradient_OI, gradients["bias"][:, None]], dim=1)
    values_I, vectors_II, values_O, vectors_OO = (factor.to(gradient_OI) for factor in factors)
    eigenvalues_OI = values_O[:, None] * values_I[None, :]
    rotated_OI = vectors_OO.T @ gradient_OI @ vectors_II
    solved_OI = vectors_OO @ (rotated_OI / (eigenvalues_OI + damping * eigenvalues_OI.mean())) @ vectors_II.T
    num_inputs = gradients["weight"].numel() // len(solved_OI)
    result = {"weight": _as_output_by_input(layer, solved_OI[:, :num_inputs])}
    return result if "bias" not in gradients else {**result, "bias": solved_OI[:, num_inputs]}


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or _is_transposed(layer)


def _is_transposed(layer: nn.Module) -> bool:
    """GPT-2's `Conv1D`: a linear layer that keeps its weight as (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D"


def _as_output_by_input(layer: nn.Module, weight: Tensor) -> Tensor:
    return weight.T if _is_transposed(layer) else weight


def _empty_sums(layers: Mapping[str, nn.Module]) -> dict[str, _Sums]:
    sums = {}
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        num_outputs, num_inputs = _as_output_by_input(layer, weight).shape
        sizes = (num_inputs + (layer.bias is not None), num_outputs)
        sums[name] = _Sums(*(torch.zeros(n, n, dtype=torch.float64, device=weight.device) for n in sizes))
    return sums


@contextmanager
def _recording(layers: Mapping[str, nn.Module], sums: Mapping[str, _Sums], is_input_BT: Tensor) -> Iterator[None]:
    """While open, every forward and backward pass through the layers adds to their sums."""
    handles = [layer.register_forward_hook(_add_to(sums[name], is_input_BT)) for name, layer in layers.items()]
    handles += [layer.register_forward_pre_hook(_start_graph) for layer in layers.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _start_graph(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Let gradients flow from the first factored layer on; no parameter needs one, so none is computed."""
    return inputs if inputs[0].requires_grad else (inputs[0].detach().requires_grad_(), *inputs[1:])


def _add_to(sums: _Sums, is_input_BT: Tensor) -> Callable[..., None]:
    def add_output_gradient(gradient_BTO: Tensor) -> None:
        gradient_PO = _wide(gradient_BTO[is_input_BT])
        sums.outputs_OO += gradient_PO.T @ gradient_PO

    def after_forward(layer: nn.Module, inputs: tuple[Tensor, ...], output_BTO: Tensor) -> None:
        input_PI = _wide(inputs[0].detach()[is_input_BT])
        if layer.bias is not None:
            input_PI = torch.cat([input_PI, input_PI.new_ones(len(input_PI), 1)], dim=1)
        sums.inputs_II += input_PI.T @ input_PI
        output_BTO.register_hook(add_output_gradient)

    return after_forward


def _decompose(sums: _Sums, num_positions: int) -> KroneckerFactors:
    values_I, vectors_II = torch.linalg.eigh(sums.inputs_II / num_positions)
    values_O, vectors_OO = torch.linalg.eigh(sums.outputs_OO / num_positions)
    parts = (values_I.clamp(min=0), vectors_II, values_O.clamp(min=0), vectors_OO)
    return KroneckerFactors(*parts)


def _wide(tensor: Tensor) -> Tensor:
    """float32, or float64 where the model itself is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
