"""Kronecker-factored curvature (K-FAC, EK-FAC): the Fisher matrix of each layer as a product of two small ones.

For a layer y = W a with gradient g = ∂nats/∂y at one position, the layer's Fisher block is
E[(a aᵀ) ⊗ (g gᵀ)] ≈ A ⊗ G with A = E[a aᵀ] and G = E[g gᵀ]. EK-FAC keeps the eigenvectors of A and G and measures the
eigenvalues: the mean square of each row's gradient in that basis.
A is averaged over the positions that reached the layer, G per target of the loss, so that blocks of layers seen by
many positions (convolutions) or few (experts) have their right size beside each other.
Name suffixes: B rows, T positions, I inputs (with the bias' 1), O outputs of a layer; (a side may be diagonal).

Sources: Martens & Grosse 2015, arXiv:1503.05671; George et al. 2018, arXiv:1806.03884; damping relative to the mean
eigenvalue as in Grosse et al. 2023, arXiv:2308.03296, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.gradients import Gradients
from finf_core.layers import from_weight_matrix, has_bias, parameter_name, weight_matrix


class KroneckerFactors(NamedTuple):
    """Eigendecompositions of A (inputs) and G (output gradients) of one layer; no vectors: that side is diagonal."""

    input_values_I: Tensor
    output_values_O: Tensor
    input_vectors_II: Tensor | None = None
    output_vectors_OO: Tensor | None = None
    corrected_OI: Tensor | None = None  # EK-FAC: eigenvalues measured in this basis

    def eigenvalues_OI(self) -> Tensor:
        if self.corrected_OI is not None:
            return self.corrected_OI
        return self.output_values_O[:, None] * self.input_values_I[None, :]

    def rotate(self, matrix_OI: Tensor) -> Tensor:
        """Into the eigenbasis."""
        return times(times(matrix_OI, self.input_vectors_II).mT, self.output_vectors_OO).mT

    def rotate_back(self, matrix_OI: Tensor) -> Tensor:
        inputs_II, outputs_OO = self.input_vectors_II, self.output_vectors_OO
        back_OI = times(matrix_OI, None if inputs_II is None else inputs_II.mT)
        return times(back_OI.mT, None if outputs_OO is None else outputs_OO.mT).mT


@dataclass(frozen=True)
class KroneckerCurvature:
    """(A ⊗ G + λ)⁻¹ layer by layer, λ = damping · mean eigenvalue of the layer's block."""

    factors: Mapping[str, KroneckerFactors]  # layer name -> factors
    damping: float

    def precondition(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Gradients:
        """P·g for the layers with factors; what has none stays where it is.

        Raises:
            InputError: a layer's weight moves and its bias does not, or the other way round.
        """
        result: Gradients = {}
        for name, factors in self.factors.items():
            layer = module.get_submodule(name)
            keys = ["weight", "bias"] if has_bias(layer) else ["weight"]
            names = {key: parameter_name(name, key) for key in keys}
            found = {key: gradients[full] for key, full in names.items() if full in gradients}
            if not found:
                continue
            if len(found) < len(keys):
                raise InputError(f"K-FAC moves weight and bias of {name} together; let update.moves name both")
            solved = precondition_layer(layer, found, factors, self.damping)
            result |= {names[key]: part for key, part in solved.items()}
        return result

    def moves(self, name: str) -> bool:
        return name.rpartition(".")[0] in self.factors

    def mean_eigenvalue(self) -> float:
        """Over all parameters that move: the trace of the Fisher matrix by their number."""
        values = [factors.eigenvalues_OI() for factors in self.factors.values()]
        return sum(float(part.sum()) for part in values) / sum(part.numel() for part in values)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{part}": tensor
            for name, factors in self.factors.items()
            for part, tensor in factors._asdict().items()
            if tensor is not None
        }


def factors_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, KroneckerFactors]:
    """What `KroneckerCurvature.tensors` gave, as factors again."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = key.rsplit("/", 1)
        parts.setdefault(name, {})[part] = tensor
    return {name: KroneckerFactors(**found) for name, found in parts.items()}


def precondition_layer(
    layer: nn.Module, gradients: Mapping[str, Tensor], factors: KroneckerFactors, damping: float
) -> dict[str, Tensor]:
    """(A ⊗ G + λ)⁻¹ applied to the gradient of one layer.

    Args:
        gradients: "weight" and, where the layer has one, "bias", shaped like the parameters.

    Returns:
        The same keys and shapes.
    """
    gradient_OI = weight_matrix(layer, gradients["weight"])
    if "bias" in gradients:
        gradient_OI = torch.cat([gradient_OI, gradients["bias"][:, None]], dim=1)
    values_OI = factors.eigenvalues_OI().to(gradient_OI)
    ridge = damping * values_OI.mean()
    damped_OI = values_OI + ridge
    if not ridge > 0:  # no gradient of the sample reached this layer
        damped_OI = torch.full_like(damped_OI, torch.inf)
    solved_OI = factors.rotate_back(factors.rotate(gradient_OI) / damped_OI)
    if "bias" not in gradients:
        return {"weight": from_weight_matrix(layer, solved_OI)}
    return {"weight": from_weight_matrix(layer, solved_OI[:, :-1]), "bias": solved_OI[:, -1]}


def times(matrix: Tensor, vectors: Tensor | None) -> Tensor:
    """matrix @ vectors; no vectors stand for the identity."""
    return matrix if vectors is None else matrix @ vectors.to(matrix)
