"""How a row's loss under the mirrored model is compared with the base model.

| difference | mirrored loss | passes per query | for |
|---|---|---|---|
| `forward` | l(θ* + δ) | 1 | float32; the default |
| `central` | l(θ*) + (l(θ* + δ) − l(θ* − δ)) / 2 | 2 | large steps: the curved part of the change cancels |
| `jvp` | l(θ*) + dl/dθ · δ, in forward mode | about 2 | weights so coarse (bfloat16) that θ* + δ rounds away |
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from finf_core.adapter import Adapter
from finf_core.kernels import plain_kernels
from finf_core.losses import ExampleLoss
from finf_core.moving import Deltas, moved
from finf_core.spec import Difference


def base_nats(adapter: Adapter, batches: Sequence[Any]) -> list[Tensor]:
    """Nats of every target of each batch under the base model, float64, example after example."""
    with torch.inference_mode():
        return [target_nats(adapter.loss(batch)) for batch in batches]


def mirrored_nats(
    adapter: Adapter,
    batches: Sequence[Any],
    deltas: Deltas,
    difference: Difference,
    base: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The same under the mirrored model.

    Args:
        base: `base_nats` of these batches, where it is known already; not needed for `forward`.
    """
    if difference == "forward":
        return _moved_nats(adapter, batches, deltas, 1.0)
    base = base_nats(adapter, batches) if base is None else base
    if difference == "jvp":
        changes = [tangent_nats(adapter, batch, deltas) for batch in batches]
    else:
        plus, minus = (_moved_nats(adapter, batches, deltas, scale) for scale in (1.0, -1.0))
        changes = [(up - down) / 2 for up, down in zip(plus, minus, strict=True)]
    return [nats + change for nats, change in zip(base, changes, strict=True)]


def target_nats(loss: ExampleLoss) -> Tensor:
    """Nats of each target, float64; where the adapter gives sums only, each target gets an equal share."""
    if loss.target_nats is not None:
        return loss.target_nats.double()
    shares = loss.sum_nats.double() / loss.num_targets.clamp(min=1)
    return shares.repeat_interleave(loss.num_targets)


def _moved_nats(adapter: Adapter, batches: Sequence[Any], deltas: Deltas, scale: float) -> list[Tensor]:
    with moved(adapter.module, deltas, scale):
        return base_nats(adapter, batches)


def tangent_nats(adapter: Adapter, batch: Any, deltas: Deltas) -> Tensor:
    """d nats / d θ · δ of each target, by dual numbers; fused attention has no forward mode, plain attention has."""
    model = _LossModule(adapter)
    primals = {f"module.{name}": adapter.module.get_parameter(name).detach() for name in deltas}
    tangents = {f"module.{name}": delta.to(primals[f"module.{name}"]) for name, delta in deltas.items()}

    def nats(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(model, parameters, (batch,))
        return result

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), plain_kernels():
        tangent_N: Tensor = jvp(nats, (primals,), (tangents,))[1]
    return tangent_N


class _LossModule(nn.Module):
    """The adapter's loss as a module's forward pass, so that its parameters can be exchanged for one call."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.module = adapter.module
        self.adapter = adapter

    def forward(self, batch: Any) -> Tensor:
        return target_nats(self.adapter.loss(batch))
