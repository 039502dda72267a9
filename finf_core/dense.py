"""Exact curvature for small models: the whole Fisher matrix, a reference for the factored ones.

For cross-entropy the Fisher matrix under the model's own labels is the generalised Gauss-Newton matrix, and for
a model that is linear in its parameters (logistic regression) it is the Hessian. Source: Martens 2020, arXiv:1412.1193.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.gradients import Gradients

MAX_PARAMETERS = 12_000  # its square in float64 is 1.2 GB
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class DenseCurvature:
    """(F + λ)⁻¹ over all moving parameters together, λ = damping · mean eigenvalue of F."""

    matrix: Tensor  # (parameters, parameters), in the order of `names`
    names: tuple[str, ...]
    damping: float

    @cached_property
    def cholesky(self) -> Tensor:
        ridge = self.damping * self.matrix.diagonal().mean()
        factor: Tensor = torch.linalg.cholesky(self.matrix + ridge * torch.eye(len(self.matrix), dtype=torch.float64))
        return factor

    def precondition(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Gradients:
        complete = {  # a parameter that the loss does not reach has no gradient
            name: gradients[name] if name in gradients else torch.zeros_like(module.get_parameter(name))
            for name in self.names
        }
        flat = _flat(complete, self.names)
        solved = torch.cholesky_solve(flat.to(self.cholesky)[:, None], self.cholesky)[:, 0].to(flat)
        parts = solved.split([complete[name].numel() for name in self.names])
        return {name: part.view_as(complete[name]) for name, part in zip(self.names, parts, strict=True)}

    def moves(self, name: str) -> bool:
        return name in self.names

    def tensors(self) -> dict[str, Tensor]:
        return {"/".join(self.names): self.matrix}


def fit_dense(
    row_gradients: Iterable[tuple[float, Gradients]], parameters: Mapping[str, nn.Parameter], num_targets: int
) -> tuple[Tensor, tuple[str, ...]]:
    """F = Σ weight · g gᵀ over rows, per target of the rows.

    Raises:
        InputError: too many parameters for a dense matrix.
    """
    size = sum(parameter.numel() for parameter in parameters.values())
    if size > MAX_PARAMETERS:
        raise InputError(f"update.kind = 'exact' is for small models: {size:,} parameters, at most {MAX_PARAMETERS:,}")
    names = tuple(parameters)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    waiting: list[Tensor] = []
    for weight, gradients in row_gradients:
        complete = {name: gradients.get(name, torch.zeros_like(parameters[name])) for name in names}
        waiting.append(weight**0.5 * _flat(complete, names))
        if len(waiting) == ROWS_AT_ONCE:
            matrix += _gram(waiting)
            waiting = []
    if waiting:
        matrix += _gram(waiting)
    return matrix / num_targets, names


def _flat(gradients: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in names])


def _gram(rows: list[Tensor]) -> Tensor:
    stacked = torch.stack(rows)
    return (stacked.T @ stacked).double().cpu()
