"""Diagonal curvature: one number per parameter, from row gradients or from the Adam state of the training run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.gradients import Gradients


@dataclass(frozen=True)
class DiagonalCurvature:
    """P = 1 / (c + damping · mean of c), each parameter on its own; c has the shape of the parameter.

    c is the diagonal Fisher E[g²], or √(second moment) of Adam: the scale that the training run itself divided by.
    """

    values: Mapping[str, Tensor]
    damping: float

    def precondition(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Gradients:
        """P·g for the parameters that have values, not all of them 0; the others stay where they are."""
        result = {}
        for name, gradient in gradients.items():
            values = self.values[name].to(gradient) if name in self.values else gradient.new_zeros(1)
            if values.any():  # where the loss never reached there is no curvature to divide by
                result[name] = gradient / (values + self.damping * values.mean())
        return result

    def moves(self, name: str) -> bool:
        return name in self.values

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.values)


def fit_diagonal(row_gradients: Iterable[tuple[float, Gradients]], num_targets: int) -> dict[str, Tensor]:
    """Σ weight · g² over rows, per target of the rows: the diagonal of the Fisher matrix of the mean loss."""
    sums: dict[str, Tensor] = {}
    for weight, gradients in row_gradients:
        for name, gradient in gradients.items():
            sums[name] = sums.get(name, 0) + weight * gradient**2
    if not sums:
        raise InputError("the diagonal Fisher needs at least one row to fit on")
    return {name: total / num_targets for name, total in sums.items()}
