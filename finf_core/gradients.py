"""Gradients of a row's or query's loss with respect to the parameters that may move."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finf_core.adapter import Adapter
from finf_core.losses import ExampleLoss
from finf_core.wide import wide

Gradients = dict[str, Tensor]  # parameter name -> gradient shaped like it, float32 or wider


def summed_gradient(adapter: Adapter, batches: Iterable[Any], parameters: Mapping[str, nn.Parameter]) -> Gradients:
    """∇ of the summed nats of all batches; parameters that the loss does not reach are left out."""
    return losses_and_gradient(adapter, batches, parameters)[1]


def losses_and_gradient(
    adapter: Adapter, batches: Iterable[Any], parameters: Mapping[str, nn.Parameter]
) -> tuple[list[ExampleLoss], Gradients]:
    """The same with the loss of each batch, which the pass gives anyway."""
    losses: list[ExampleLoss] = []
    total: Gradients = {}
    with _needing_gradients(parameters):
        for batch in batches:
            with torch.enable_grad():
                loss = adapter.loss(batch)
                nats = loss.sum_nats.sum()
            parts = torch.autograd.grad(nats, list(parameters.values()), allow_unused=True)
            target_nats = None if loss.target_nats is None else loss.target_nats.detach()
            losses.append(ExampleLoss(loss.sum_nats.detach(), loss.num_targets, target_nats))
            for name, part in zip(parameters, parts, strict=True):
                if part is not None:
                    total[name] = total.get(name, 0) + wide(part)
    return losses, total


def row_gradients(
    adapter: Any, rows: Iterable[Sequence[Any]], parameters: Mapping[str, nn.Parameter], labels: str, seed: int
) -> Iterator[tuple[float, Gradients]]:
    """One backward pass per row: (weight, ∇ of the row's summed nats), for sums of squares over the Fisher's labels.

    Args:
        labels: "sampled": the model's own labels (true Fisher). An adapter with `weigh_labels` gives every label with
            its probability as weight; otherwise `sample_labels` draws one. "data": the labels of the rows (empirical).
    """
    generator: torch.Generator | None = None
    for row in rows:
        batches = [adapter.collate([example]) for example in row]
        if labels == "sampled" and hasattr(adapter, "weigh_labels") and len(batches) == 1:
            for batch, weights in adapter.weigh_labels(batches[0]):
                yield float(weights[0]), summed_gradient(adapter, [batch], parameters)
            continue
        if labels == "sampled":
            generator = generator or torch.Generator(next(iter(parameters.values())).device).manual_seed(seed)
            batches = [adapter.sample_labels(batch, generator) for batch in batches]
        yield 1.0, summed_gradient(adapter, batches, parameters)


@contextmanager
def _needing_gradients(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    for parameter in parameters.values():
        parameter.requires_grad_()
    try:
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
