"""The mirrored update: θ_q = θ* + s·a·P·∇l̄(q; θ*), one short step that unlearns (or learns) the query.

P is the identity (`sgd`), Adam's first step (`adam`, the released recipe of the paper) or K-FAC.
The step a is fixed, or solved: the query's own mean loss moves by a set number of nats per target.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finf_core.adapter import Adapter
from finf_core.curvature import KroneckerFactors, precondition
from finf_core.errors import InputError
from finf_core.moving import Deltas, moved, moving_parameters
from finf_core.scores import sign
from finf_core.spec import Direction, UpdateSpec

ADAM_EPSILON = 1e-8
MOVE_TOLERANCE = 0.01  # of the nats asked for; the mirror ratio divides by the nats really moved
LEAST_MOVE = {"ascent": 0.5, "descent": 1e-3}  # share of the nats asked for that will do; a loss near 0 falls little
MAX_TRIALS = 60  # forward passes on the query alone
FALL_LIMIT = 0.5  # a query's loss cannot fall below 0: descent asks for at most this share of it


@dataclass(frozen=True)
class MirroredUpdate:
    """What is added to the parameters, and what it does to the query itself."""

    deltas: Deltas  # s·a·P·∇l̄, ready to add
    direction: Direction
    base_nats: float  # sum over the query's targets
    num_targets: int
    moved_nats: float  # s·(l̄(q; θ_q) − l̄(q; θ*)), nats per target; positive
    step_size: float  # a


def mirrored_update(
    adapter: Adapter,
    query: Sequence[Any],
    spec: UpdateSpec,
    factors: Mapping[str, KroneckerFactors] | None = None,
) -> MirroredUpdate:
    """Solve or take the step for one query (all its examples in one batch each).

    Args:
        query: the examples (windows) that make up one query; their losses add up.
        factors: for `kfac`, from `finf_core.curvature.fit_kronecker_factors`.

    Raises:
        InputError: the query has no target, its gradient vanishes, or the step cannot reach the nats asked for.

    Source: Ko et al., CVPR 2024, arXiv:2402.08922, section 3; the solved step is ours (docs/DECISIONS.md).
    """
    batches = [adapter.collate([example]) for example in query]
    base_nats, num_targets = _total_loss(adapter, batches)
    if num_targets == 0:
        raise InputError("the query has no target: its loss mask leaves nothing to predict")
    moving = moving_parameters(adapter.module, spec.moves)
    gradients = _mean_gradient(adapter, batches, num_targets, moving)
    direction = _direction(adapter, gradients, spec, factors or {})
    signed = {name: sign(spec.direction) * part for name, part in direction.items()}

    def nats_moved(step: float) -> float:
        with moved(adapter.module, signed, step):
            return sign(spec.direction) * (_total_loss(adapter, batches)[0] - base_nats) / num_targets

    if spec.learning_rate is not None:
        step = spec.learning_rate
        reached = nats_moved(step)
    else:
        target_nats = _nats_to_move(spec, base_nats / num_targets)
        least_nats = LEAST_MOVE[spec.direction] * target_nats
        step, reached = _solve_step(nats_moved, target_nats / _slope(gradients, direction), target_nats, least_nats)
    if not reached > 0:
        raise InputError(
            f"the step moves the query's loss by {reached:.3g} nats per target, the wrong way or not at all"
        )
    deltas = {name: step * part for name, part in signed.items()}
    return MirroredUpdate(deltas, spec.direction, base_nats, num_targets, reached, step)


def _total_loss(adapter: Adapter, batches: Sequence[Any]) -> tuple[float, int]:
    with torch.no_grad():
        losses = [adapter.loss(batch) for batch in batches]
    return sum(float(loss.sum_nats.sum()) for loss in losses), sum(int(loss.num_targets.sum()) for loss in losses)


def _direction(
    adapter: Adapter, gradients: Mapping[str, Tensor], spec: UpdateSpec, factors: Mapping[str, KroneckerFactors]
) -> Mapping[str, Tensor]:
    """P·∇l̄: each part shaped like its parameter; parameters that P leaves out stay where they are."""
    if spec.kind == "adam":  # a fresh Adam's first step: the bias corrections cancel its decay rates
        return {name: gradient / (gradient.abs() + ADAM_EPSILON) for name, gradient in gradients.items()}
    if spec.kind == "kfac":
        return _precondition_all(adapter, gradients, factors, spec.damping)
    return gradients


def _mean_gradient(
    adapter: Adapter, batches: Sequence[Any], num_targets: int, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    """∇l̄ of the whole query, summed over its batches in float32 or wider; parameters it does not reach are left out."""
    moving = [parameter.requires_grad_() for parameter in parameters.values()]
    total: dict[str, Tensor] = {}
    try:
        for batch in batches:
            with torch.enable_grad():
                mean_nats = adapter.loss(batch).sum_nats.sum() / num_targets
            for name, part in zip(parameters, torch.autograd.grad(mean_nats, moving, allow_unused=True), strict=True):
                if part is not None:
                    total[name] = total.get(name, 0) + (part if part.dtype == torch.float64 else part.float())
    finally:
        for parameter in moving:
            parameter.requires_grad_(False)
    return total


def _precondition_all(
    adapter: Adapter, gradients: Mapping[str, Tensor], factors: Mapping[str, KroneckerFactors], damping: float
) -> dict[str, Tensor]:
    """K-FAC layer by layer; what has no factors stays where it is."""
    if not factors:
        raise InputError("update.kind = 'kfac' needs Kronecker factors: fit them with fit_kronecker_factors")
    result: dict[str, Tensor] = {}
    for layer_name, layer_factors in factors.items():
        layer = adapter.module.get_submodule(layer_name)
        keys = ["weight"] if layer.bias is None else ["weight", "bias"]
        layer_gradients = {key: gradients[f"{layer_name}.{key}"] for key in keys if f"{layer_name}.{key}" in gradients}
        if not layer_gradients:
            continue
        if len(layer_gradients) < len(keys):
            raise InputError(f"K-FAC moves weight and bias of {layer_name} together; let update.moves name both")
        solved = precondition(layer, layer_gradients, layer_factors, damping)
        result |= {f"{layer_name}.{key}": part for key, part in solved.items()}
    return result


def _nats_to_move(spec: UpdateSpec, mean_nats: float) -> float:
    return spec.move_nats if spec.direction == "ascent" else min(spec.move_nats, FALL_LIMIT * mean_nats)


def _slope(gradients: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> float:
    """d(mean loss) / d(step) at step 0: the first guess of the solver."""
    slope = sum(float((gradients[name] * part).sum()) for name, part in direction.items())
    if not (math.isfinite(slope) and slope > 0):
        raise InputError(f"the query's gradient gives no direction to move in (slope {slope:.3g})")
    return slope


def _solve_step(
    nats_moved: Callable[[float], float], first_step: float, target_nats: float, least_nats: float
) -> tuple[float, float]:
    """Double until the target is passed, then bisect; a loss that is not finite was a step too far.

    Where no step comes within `MOVE_TOLERANCE` (a loss that cannot fall so far, weights so coarse that
    it moves in jumps), the trial that came nearest is taken: every score is divided by what was really moved.

    Returns:
        The step and the nats it really moves.

    Raises:
        InputError: no trial moved the loss by `least_nats`.
    """
    step, low, high = first_step, 0.0, math.inf
    trials: list[tuple[float, float]] = []  # step, nats it moved
    for _ in range(MAX_TRIALS):
        reached = nats_moved(step)
        if abs(reached - target_nats) <= MOVE_TOLERANCE * target_nats:
            return step, reached
        if math.isfinite(reached) and reached >= least_nats:
            trials.append((step, reached))
        if 0 <= reached < target_nats:  # below 0 the step went past the best there is
            low = step
        else:
            high = step
        step = 2 * low if high == math.inf else (low + high) / 2
    if not trials:
        raise InputError(f"no step moves the query's loss by {target_nats:.3g} nats per target; see update.move_nats")
    return min(trials, key=lambda trial: abs(trial[1] - target_nats))
