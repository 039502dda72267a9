"""Self-influence: how much a row's own loss hangs on the row itself. No query and no pass over other rows.

For rows whose losses l add up to n targets, G = ∇Σl and P the update's preconditioner: GᵀPG / n, the nats per target
that the rows lose for each unit of step when they are unlearned together. It is the slope that a mirrored update starts
with (`finf_core.updates`), times the rows' targets: a row that the model fits on its own account has a large one, a row
that others speak for too has a small one. n copies of a row taken together have n times that of one.

Source: Feldman & Zhang 2020, arXiv:2008.03703, for what is to be estimated; Koh & Liang 2017, arXiv:1703.04730, for
self-influence as its estimate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from finf_core.adapter import Adapter
from finf_core.curvature import Curvature
from finf_core.gradients import Gradients, losses_and_gradient
from finf_core.moving import moving_parameters


class SelfInfluence(NamedTuple):
    """Of one row, or of several taken together."""

    nats: float  # sum over the targets
    num_targets: int
    influence: float  # GᵀPG / num_targets; 0 without targets
    gradient_norm: float  # |G|, of the parameters that move


def self_influence(
    adapter: Adapter,
    rows: Sequence[Sequence[Any]],
    moving: Mapping[str, nn.Parameter],
    curvature: Curvature | None,
) -> SelfInfluence:
    """One forward and one backward pass for each example of the rows; an example is a batch of its own.

    Args:
        rows: each as its examples (windows).
        moving: `self_moving`.
        curvature: None: P is the identity.
    """
    batches = [adapter.collate([example]) for row in rows for example in row]
    losses, gradients = losses_and_gradient(adapter, batches, moving)
    nats = sum(float(loss.sum_nats.sum()) for loss in losses)
    num_targets = sum(int(loss.num_targets.sum()) for loss in losses)
    if not num_targets:
        return SelfInfluence(nats, 0, 0.0, 0.0)
    direction = gradients if curvature is None else curvature.precondition(adapter.module, gradients)
    return SelfInfluence(nats, num_targets, _dot(gradients, direction) / num_targets, _dot(gradients, gradients) ** 0.5)


def self_moving(adapter: Adapter, moves: str, curvature: Curvature | None) -> dict[str, nn.Parameter]:
    """The parameters that an update would move."""
    parameters = moving_parameters(adapter.module, moves)
    return {name: each for name, each in parameters.items() if curvature is None or curvature.moves(name)}


def _dot(first: Gradients, second: Mapping[str, Any]) -> float:
    return float(sum(float((first[name].double() * part.double()).sum()) for name, part in second.items()))
