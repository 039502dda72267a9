"""Fitting Kronecker factors: one forward and backward pass over a sample, each layer's inputs and gradients summed up.

A is averaged over the positions that reached the layer, G per target of the loss. EK-FAC's eigenvalues are the mean
square of each row's gradient in the eigenbasis, in a second run over the same sample.
Name suffixes: B rows, T positions, I inputs (with the bias' 1), O outputs of a layer; (a side may be diagonal).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.kronecker import KroneckerFactors, times
from finf_core.layers import (
    has_diagonal_inputs,
    has_diagonal_outputs,
    input_rows,
    num_inputs,
    num_outputs,
    output_rows,
)
from finf_core.losses import ExampleLoss
from finf_core.recording import Recorder, recording
from finf_core.wide import wide

SUMS_BYTES = 8 << 30
LEAST_POSITIONS = 16  # an expert that fewer positions of the sample reached stays where it is

Batches = Callable[[], Iterable[tuple[Any, Tensor | None]]]  # each time anew: (batch, which positions are no padding)


@dataclass(frozen=True)
class Sample:
    """What the factors are fitted on: the same batches, with the same labels, every time they are asked for."""

    batches: Batches  # masks are (B, T), or None where nothing is padding
    loss: Callable[[Any], ExampleLoss]
    head: nn.Module | None = None  # a layer whose output side is diagonal


def fit_kronecker_factors(
    layers: Mapping[str, nn.Module], sample: Sample, corrected: bool = False, limit_bytes: int = SUMS_BYTES
) -> dict[str, KroneckerFactors]:
    """Fit A and G of every layer; with `corrected` (EK-FAC) also the eigenvalues, in a second run over the sample.

    Args:
        limit_bytes: running sums held at once; more layers than fit are done in turns, each a run over the sample.

    Raises:
        InputError: no layer to factor, no batch, or a batch without targets.
    """
    if not layers:
        raise InputError("K-FAC found no layer to factor among the moving parameters; choose update.moves otherwise")
    factors: dict[str, KroneckerFactors] = {}
    for group in group_layers(layers, sample.head, limit_bytes):
        found = _fit_factors(group, sample)
        factors |= _correct(found, group, sample) if corrected else found
    return factors


def group_layers(
    layers: Mapping[str, nn.Module], head: nn.Module | None, limit_bytes: int
) -> Iterator[dict[str, nn.Module]]:
    """The layers in turns whose running sums stay within the limit; one layer that exceeds it has a turn of its own."""
    group: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        held = sum(sums_bytes(other, head) for other in group.values())
        if group and held + sums_bytes(layer, head) > limit_bytes:
            yield group
            group = {}
        group[name] = layer
    yield group


def sums_bytes(layer: nn.Module, head: nn.Module | None) -> int:
    """Of the running sums of one layer, in float32."""
    return 4 * sum(math.prod(shape) for shape in _shapes(layer, head))


def _fit_factors(layers: Mapping[str, nn.Module], sample: Sample) -> dict[str, KroneckerFactors]:
    sums = {name: _Sums.empty(layer, sample.head) for name, layer in layers.items()}
    num_targets = _run(layers, sample, {name: part.add for name, part in sums.items()})
    if num_targets == 0:
        raise InputError("K-FAC needs at least one row with a target to fit its factors on")
    factors = {}
    for name in layers:
        part = sums.pop(name)  # its memory goes before the next one's eigenvectors come
        if part.num_positions >= min(LEAST_POSITIONS, num_targets):
            factors[name] = part.decompose(num_targets)
    return factors


def _correct(
    factors: dict[str, KroneckerFactors], layers: Mapping[str, nn.Module], sample: Sample
) -> dict[str, KroneckerFactors]:
    """Measured eigenvalues instead of products; a layer with a diagonal side keeps the products."""
    squares = {name: _Squares(part) for name, part in factors.items() if not _is_one_sided(part)}
    num_targets = _run({name: layers[name] for name in squares}, sample, {k: s.add for k, s in squares.items()})
    return factors | {
        name: part.factors._replace(corrected_OI=part.sums_OI / num_targets) for name, part in squares.items()
    }


def _run(layers: Mapping[str, nn.Module], sample: Sample, recorders: Mapping[str, Recorder]) -> int:
    """Forward and backward over the batches, every layer telling its recorder; returns the number of targets."""
    num_targets = 0
    for batch, mask_BT in sample.batches():
        with recording(layers, recorders, mask_BT), torch.enable_grad():
            losses = sample.loss(batch)
            nats = losses.sum_nats.sum()
            if nats.requires_grad:  # not where the batch reached none of the layers: an expert alone in its turn
                nats.backward()
        num_targets += int(losses.num_targets.sum())
    return num_targets


@dataclass
class _Sums:
    """Running sums of one layer; a diagonal side keeps a vector."""

    inputs: Tensor
    outputs: Tensor
    num_positions: int = 0

    @classmethod
    def empty(cls, layer: nn.Module, head: nn.Module | None) -> "_Sums":
        weight = layer.get_parameter("weight")
        inputs, outputs = (
            torch.zeros(shape, dtype=wide(weight).dtype, device=weight.device) for shape in _shapes(layer, head)
        )
        return cls(inputs, outputs)

    def add(self, layer: nn.Module, given: Tensor, gradient: Tensor, mask_BT: Tensor | None) -> None:
        inputs, gradient_BTO, mask_BT = _rows(layer, given, gradient, mask_BT)
        inputs_P, gradient_PO = inputs.flatten(0, 1), gradient_BTO.flatten(0, 1)
        if mask_BT is not None:
            places_P = mask_BT.flatten().nonzero()[:, 0]
            inputs_P, gradient_PO = inputs_P[places_P], gradient_PO[places_P]
        if isinstance(layer, nn.Embedding):
            self.inputs += torch.bincount(inputs_P, minlength=len(self.inputs)).to(self.inputs)
        else:
            _add_products(self.inputs, inputs_P)
        _add_products(self.outputs, gradient_PO)
        self.num_positions += len(gradient_PO)

    def decompose(self, num_targets: int) -> KroneckerFactors:
        inputs, outputs = self.inputs / max(1, self.num_positions), self.outputs / num_targets
        (values_I, vectors_II), (values_O, vectors_OO) = _eigen(inputs), _eigen(outputs)
        return KroneckerFactors(values_I, values_O, vectors_II, vectors_OO)


@dataclass
class _Squares:
    """Squares of each row's gradient in the eigenbasis of one layer."""

    factors: KroneckerFactors
    sums_OI: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sums_OI = torch.zeros_like(self.factors.eigenvalues_OI())

    def add(self, layer: nn.Module, given: Tensor, gradient: Tensor, mask_BT: Tensor | None) -> None:
        inputs_BTI, gradient_BTO, mask_BT = _rows(layer, given, gradient, mask_BT)
        if mask_BT is not None:
            gradient_BTO = gradient_BTO * mask_BT[:, :, None]
        inputs_BTI = times(inputs_BTI, self.factors.input_vectors_II)
        gradient_BTO = times(gradient_BTO, self.factors.output_vectors_OO)
        if inputs_BTI.shape[1] == 1:  # each row is one position: the square of a product is the product of squares
            self.sums_OI += (gradient_BTO[:, 0] ** 2).T @ inputs_BTI[:, 0] ** 2
            return
        for gradient_TO, inputs_TI in zip(gradient_BTO, inputs_BTI, strict=True):
            self.sums_OI += (gradient_TO.T @ inputs_TI) ** 2


def _rows(
    layer: nn.Module, given: Tensor, gradient: Tensor, mask_BT: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs and output gradients (B, T, ·), and which positions are no padding (None: all of them)."""
    inputs, gradient_BTO = input_rows(layer, given), wide(output_rows(layer, gradient))
    if inputs.is_floating_point():
        inputs = wide(inputs)
    if mask_BT is not None and mask_BT.shape != gradient_BTO.shape[:2]:  # an expert or a head sees positions, not rows
        mask_BT = (gradient_BTO != 0).any(2)  # padding is what brings no gradient
    return inputs, gradient_BTO, mask_BT


def _shapes(layer: nn.Module, head: nn.Module | None) -> list[tuple[int, ...]]:
    """Of the two sums of a layer: square, or a vector where a side is diagonal."""
    sizes = (num_inputs(layer), num_outputs(layer))
    diagonal = (has_diagonal_inputs(layer), has_diagonal_outputs(layer, head))
    return [(size,) if flat else (size, size) for size, flat in zip(sizes, diagonal, strict=True)]


def _add_products(total: Tensor, rows_PN: Tensor) -> None:
    """Σ over positions of n nᵀ, or of n² where only the diagonal is kept."""
    total += _squared(rows_PN) if total.ndim == 2 else (rows_PN**2).sum(0)


def _squared(rows_PN: Tensor) -> Tensor:
    """nᵀ n. On one thread by numpy: it sees one matrix on both sides and computes one triangle; torch computes both.

    Not on more: numpy's threads and torch's get in each other's way, and the whole fit takes four times as long.
    """
    if rows_PN.device.type != "cpu" or torch.get_num_threads() > 1:
        return rows_PN.T @ rows_PN
    rows = rows_PN.numpy()
    return torch.from_numpy(rows.T @ rows)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    if matrix.ndim == 1:
        return matrix, None
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp(min=0), vectors


def _is_one_sided(factors: KroneckerFactors) -> bool:
    return factors.input_vectors_II is None or factors.output_vectors_OO is None
