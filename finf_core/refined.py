"""K-FAC refined: a few conjugate-gradient steps on (F + λ) δ = g, with K-FAC as the preconditioner.

K-FAC knows nothing of how layers, or inputs and outputs of one layer, vary together. The Fisher matrix itself does,
and a product F·v costs a forward-mode and a backward pass over a sample, whatever the number of parameters. The first
step goes K-FAC's own way; with more of them the update tends to the `exact` one, which no large model can afford.
Name suffix: N targets of a batch.

Sources: Martens 2010 (Hessian-free optimisation); Bae et al. 2022, arXiv:2209.05364 (what (F + λ)⁻¹g stands for).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finf_core.batches import plan_batches
from finf_core.differences import tangent_nats, target_nats
from finf_core.gradients import Gradients
from finf_core.kronecker import KroneckerCurvature

Weighted = tuple[Any, Tensor]  # a batch with labels of the model's own, and the weight of each of its targets (N,)


@dataclass(frozen=True)
class RefinedCurvature:
    """(F + λ)⁻¹ on the parameters that K-FAC moves, λ = damping · mean eigenvalue of K-FAC over all of them."""

    inner: KroneckerCurvature
    product: Callable[[Gradients], Gradients]  # v -> F v
    num_steps: int

    def precondition(self, module: nn.Module, gradients: Mapping[str, Tensor]) -> Gradients:
        ridge = self.inner.damping * self.inner.mean_eigenvalue()
        direction = step = self.inner.precondition(module, gradients)
        residual = {name: gradients[name] for name in step}
        solution = {name: torch.zeros_like(part) for name, part in step.items()}
        slope = _dot(residual, step)
        for _ in range(self.num_steps):
            if slope <= 0:  # solved, as far as rounding lets it be
                break
            image = _add(self.product(direction), ridge, direction)
            length = slope / _dot(direction, image)
            solution, residual = _add(solution, length, direction), _add(residual, -length, image)
            step = self.inner.precondition(module, residual)
            slope, last = _dot(residual, step), slope
            direction = _add(step, slope / last, direction)
        return solution

    def moves(self, name: str) -> bool:
        return self.inner.moves(name)

    def tensors(self) -> dict[str, Tensor]:
        return self.inner.tensors()


def refine(
    adapter: Any,
    rows: Sequence[Sequence[Any]],
    curvature: KroneckerCurvature,
    num_steps: int,
    batch_tokens: int,
    seed: int,
) -> RefinedCurvature:
    """K-FAC with `num_steps` of conjugate gradients for each query, on the Fisher matrix of these rows.

    Labels are the model's own: each weighted by its probability where the adapter can tell (`weigh_labels`), else one
    drawn for every target. A query then costs about five passes over the rows for each step.
    """
    batches = _weighted_batches(adapter, rows, batch_tokens, seed)
    return RefinedCurvature(curvature, partial(fisher_product, adapter, batches), num_steps)


def fisher_product(adapter: Any, batches: Sequence[Weighted], vector: Gradients) -> Gradients:
    """F v = Σ weight · g (g · v) per unit of weight, over the targets of the batches; g is a target's gradient.

    The forward-mode pass gives every g · v, and the gradient of Σ (g · v) · nats, with g · v held fixed, is the rest.
    """
    total = {name: torch.zeros_like(part) for name, part in vector.items()}
    parameters = [adapter.module.get_parameter(name) for name in vector]
    for batch, weights_N in batches:
        slopes_N = tangent_nats(adapter, batch, vector) * weights_N
        for parameter in parameters:
            parameter.requires_grad_()
        with torch.enable_grad():
            weighted = (target_nats(adapter.loss(batch)) * slopes_N).sum()
        parts = torch.autograd.grad(weighted, parameters)
        adapter.module.requires_grad_(False)
        total = {name: total[name] + part for name, part in zip(vector, parts, strict=True)}
    weight = sum(float(weights_N.sum()) for _, weights_N in batches)
    return {name: part / weight for name, part in total.items()}


def _weighted_batches(adapter: Any, rows: Sequence[Sequence[Any]], batch_tokens: int, seed: int) -> list[Weighted]:
    examples = [example for row in rows for example in row]
    plan = plan_batches([len(example) for example in examples], batch_tokens)
    batches = [adapter.collate([examples[index] for index in indices]) for indices in plan]
    if hasattr(adapter, "weigh_labels"):
        return [weighted for batch in batches for weighted in adapter.weigh_labels(batch)]
    generator = torch.Generator(next(adapter.module.parameters()).device).manual_seed(seed)
    return [_drawn(adapter, batch, generator) for batch in batches]


def _drawn(adapter: Any, batch: Any, generator: torch.Generator) -> Weighted:
    drawn = adapter.sample_labels(batch, generator)
    with torch.no_grad():
        return drawn, torch.ones_like(target_nats(adapter.loss(drawn)))


def _dot(first: Gradients, second: Gradients) -> float:
    return sum(float((first[name] * second[name]).sum()) for name in first)


def _add(first: Gradients, scale: float, second: Gradients) -> Gradients:
    return {name: part + scale * second[name] for name, part in first.items()}
