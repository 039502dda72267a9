"""Curvature: what P is in θ_q = θ* + s·a·P·∇l̄. Fitted once per model on a sample of the corpus, used by every query.

| kind | P | cost of the fit |
|---|---|---|
| `diagonal` | 1 / (diagonal Fisher + λ) | a backward pass per row, one row at a time |
| `kfac` | (A ⊗ G + λ)⁻¹ per layer | a forward and a backward pass over the sample, two eigendecompositions a layer |
| `ekfac` | the same with measured eigenvalues | twice the passes |
| either, with `refine_steps` | towards `exact` | five passes over `refine_rows` rows for each step and query |
| `exact` | (Fisher + λ)⁻¹ over all parameters | small models only: a backward pass per row and class, one Cholesky |
| `adam_moments` | 1 / (√second moment + λ) | none: read from the training run's `optimizer.pt` |

**Damping rule.** λ = `update.damping` × the mean eigenvalue of the block (a layer for `kfac` and `ekfac`, a
parameter for the diagonals, the whole matrix for `exact`); by default `DEFAULT_DAMPING[kind]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from finf_core.batches import plan_batches
from finf_core.dense import DenseCurvature, fit_dense
from finf_core.diagonal import DiagonalCurvature, fit_diagonal
from finf_core.errors import InputError
from finf_core.gradients import Gradients, row_gradients
from finf_core.kronecker import KroneckerCurvature, factors_from_tensors
from finf_core.kronecker_fit import Sample, fit_kronecker_factors
from finf_core.layers import factored_layers
from finf_core.losses import ExampleLoss
from finf_core.moving import moving_parameters
from finf_core.refined import refine
from finf_core.spec import WITHOUT_CURVATURE, UpdateSpec

DEFAULT_DAMPING = {"diagonal": 0.1, "kfac": 0.1, "ekfac": 0.1, "exact": 1e-3, "adam_moments": 1e-3}


class Curvature(Protocol):
    """Turns a query's gradient into a direction; `tensors` is what a store keeps of it."""

    def moves(self, name: str) -> bool:
        """Whether a parameter of this name can move; of the others no gradient is needed."""
        ...

    def precondition(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Gradients: ...

    def tensors(self) -> dict[str, Tensor]: ...


def fit_curvature(adapter: Any, rows: Sequence[Sequence[Any]], spec: UpdateSpec, batch_tokens: int) -> Curvature | None:
    """Fit what `spec.kind` needs on these rows; None where it needs nothing.

    Args:
        adapter: see `finf_core.adapter`; labels are sampled (`spec.curvature_labels`), so it has `sample_labels` too.
            K-FAC and EK-FAC rather take `weigh_labels` (every label with its probability) or `sampled_loss` (draws
            and takes the loss in one forward pass) where there is one.
        rows: a sample of the corpus, a few thousand rows, each as its examples.
        batch_tokens: padded tokens in one pass.

    Raises:
        InputError: no row, nothing to fit on, or labels that the adapter cannot sample.
    """
    if spec.kind in WITHOUT_CURVATURE:
        return None
    if spec.kind == "adam_moments":
        raise InputError("update.kind = 'adam_moments' is read from update.optimizer_state, not fitted")
    if spec.curvature_labels == "sampled" and not hasattr(adapter, "sample_labels"):
        raise InputError("this adapter has no sample_labels; set update.curvature_labels = 'data'")
    moving = moving_parameters(adapter.module, spec.moves)
    if spec.kind in ("kfac", "ekfac"):
        head = getattr(adapter, "head", None)
        layers = factored_layers(adapter.module, moving, head, spec.embeddings)
        sample = _sample(adapter, rows, spec, batch_tokens)
        inner = KroneckerCurvature(fit_kronecker_factors(layers, sample, spec.kind == "ekfac"), damping(spec))
        return refine_if_asked(adapter, rows, spec, inner, batch_tokens)
    gradients = row_gradients(adapter, rows, moving, spec.curvature_labels, spec.seed)
    num_targets = _count_targets(adapter, rows)
    if spec.kind == "exact":
        return DenseCurvature(*fit_dense(gradients, moving, num_targets), damping(spec))
    return DiagonalCurvature(fit_diagonal(gradients, num_targets), damping(spec))


def curvature_from_tensors(spec: UpdateSpec, tensors: Mapping[str, Tensor]) -> Curvature:
    """What `Curvature.tensors` gave, with the damping of `spec`: the same fit serves every damping."""
    if spec.kind == "exact":
        [(names, matrix)] = tensors.items()
        return DenseCurvature(matrix, tuple(names.split("/")), damping(spec))
    if spec.kind in ("kfac", "ekfac"):
        return KroneckerCurvature(factors_from_tensors(tensors), damping(spec))
    return DiagonalCurvature(tensors, damping(spec))


def refine_if_asked(
    adapter: Any, rows: Sequence[Sequence[Any]], spec: UpdateSpec, curvature: Curvature, batch_tokens: int
) -> Curvature:
    """With `spec.refine_steps`, conjugate gradients on the Fisher matrix of the first `spec.refine_rows` rows."""
    if not spec.refine_steps or not isinstance(curvature, KroneckerCurvature):
        return curvature
    return refine(adapter, rows[: spec.refine_rows], curvature, spec.refine_steps, batch_tokens, spec.seed)


def damping(spec: UpdateSpec) -> float:
    """λ relative to the mean eigenvalue: as set, or the default of the kind."""
    return DEFAULT_DAMPING[spec.kind] if spec.damping is None else spec.damping


class _Undrawn(NamedTuple):
    """A batch whose labels are drawn in the pass that takes their loss."""

    batch: Any
    generator: torch.Generator


class _Labelled(NamedTuple):
    """A batch with labels of the model's own, and how likely each example's label is under the model."""

    batch: Any
    weights_B: Tensor
    counts: bool  # one of the labels of an example counts as its target


def _sample(adapter: Any, rows: Sequence[Sequence[Any]], spec: UpdateSpec, batch_tokens: int) -> Sample:
    def loss(batch: Any) -> ExampleLoss:
        if isinstance(batch, _Labelled):
            losses = adapter.loss(batch.batch)  # the square of a gradient takes the weight, so the gradient its root
            return ExampleLoss(losses.sum_nats * batch.weights_B.sqrt(), losses.num_targets * batch.counts)
        found: ExampleLoss = adapter.sampled_loss(*batch) if isinstance(batch, _Undrawn) else adapter.loss(batch)
        return found

    return Sample(lambda: _batches(adapter, rows, spec, batch_tokens), loss, getattr(adapter, "head", None))


def _batches(
    adapter: Any, rows: Sequence[Sequence[Any]], spec: UpdateSpec, batch_tokens: int
) -> Iterator[tuple[Any, Tensor | None]]:
    """Batches with the labels that the spec asks for, the same ones each time: drawn, or all of them with weights."""
    examples = [example for row in rows for example in row]
    generator = torch.Generator(next(adapter.module.parameters()).device).manual_seed(spec.seed)
    for indices in plan_batches([len(example) for example in examples], batch_tokens):
        batch = adapter.collate([examples[index] for index in indices])
        mask_BT = getattr(batch, "is_input_BT", None)
        if spec.curvature_labels == "data":
            yield batch, mask_BT
        elif hasattr(adapter, "weigh_labels"):
            for label, (labelled, weights_B) in enumerate(adapter.weigh_labels(batch)):
                yield _Labelled(labelled, weights_B, counts=label == 0), mask_BT
        elif hasattr(adapter, "sampled_loss"):
            yield _Undrawn(batch, generator), mask_BT
        else:
            yield adapter.sample_labels(batch, generator), mask_BT


def _count_targets(adapter: Any, rows: Sequence[Sequence[Any]]) -> int:
    with torch.no_grad():
        return sum(int(adapter.loss(adapter.collate([example])).num_targets) for row in rows for example in row)
