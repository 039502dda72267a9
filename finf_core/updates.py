"""The mirrored update: θ_q = θ* + s·a·P·∇l̄(q; θ*), a short move that unlearns (or learns) the query.

P is the identity (`sgd`), Adam's own scaling (`adam`, the released recipe of the paper) or a curvature
(`finf_core.curvature`). The step a is fixed, or solved: the query's own mean loss moves by a set number of nats
per target. `steps` > 1 takes the same move in several steps, each along the gradient where the last one ended.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from finf_core.adapter import Adapter
from finf_core.curvature import Curvature
from finf_core.differences import base_nats, mirrored_nats, target_nats
from finf_core.errors import InputError
from finf_core.gradients import Gradients, losses_and_gradient
from finf_core.losses import ExampleLoss
from finf_core.low_rank import cut_to_rank
from finf_core.moving import Deltas, moved, moving_parameters
from finf_core.scores import sign
from finf_core.spec import WITHOUT_CURVATURE, Difference, Direction, UpdateSpec
from finf_core.wide import COARSE

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
MOVE_TOLERANCE = 0.01  # of the nats asked for; the mirror ratio divides by the nats really moved
LEAST_MOVE = {"ascent": 0.5, "descent": 1e-3}  # share of the nats asked for that will do; a loss near 0 falls little
MAX_TRIALS = 60  # forward passes on the query alone, for each step
MARGIN = 1.02  # at least so much further, where the target is not reached yet
LEAST_SHARE = 0.05  # of the way from the lower bound to the upper
FALL_LIMIT = 0.5  # a query's loss cannot fall below 0: descent asks for at most this share of it


@dataclass(frozen=True)
class MirroredUpdate:
    """What is added to the parameters, and what it does to the query itself."""

    deltas: Deltas  # θ_q − θ*, ready to add
    direction: Direction
    difference: Difference  # how rows are to be compared with the base model, as the query was
    base_nats: float  # sum over the query's targets
    num_targets: int
    moved_nats: float  # s·(l̄(q; θ_q) − l̄(q; θ*)), nats per target; positive
    step_size: float  # a, of the last step


def mirrored_update(
    adapter: Adapter, query: Sequence[Any], spec: UpdateSpec, curvature: Curvature | None = None
) -> MirroredUpdate:
    """Solve or take the step for one query (all its examples in one batch each).

    Args:
        query: the examples (windows) that make up one query; their losses add up.
        curvature: what `finf_core.curvature.fit_curvature` gave for `spec`; None for `sgd` and `adam`.

    Raises:
        InputError: the query has no target, its gradient vanishes, or the step cannot reach the nats asked for.

    Source: Ko et al., CVPR 2024, arXiv:2402.08922, section 3; the solved step is ours (docs/DECISIONS.md).
    """
    if (curvature is None) != (spec.kind in WITHOUT_CURVATURE):
        wants = "needs a curvature: fit it with fit_curvature" if curvature is None else "takes no curvature"
        raise InputError(f"update.kind = {spec.kind!r} {wants}")
    walk = _Walk(adapter, [adapter.collate([example]) for example in query], spec, curvature)
    for number in range(1, spec.steps + 1):
        walk.take_step(number)
    return walk.result()


class _Walk:
    """One or more steps away from θ*, all on the query alone."""

    def __init__(self, adapter: Adapter, batches: Sequence[Any], spec: UpdateSpec, curvature: Curvature | None) -> None:
        self.adapter, self.batches, self.spec, self.curvature = adapter, batches, spec, curvature
        self.moving = {
            name: parameter
            for name, parameter in moving_parameters(adapter.module, spec.moves).items()
            if curvature is None or curvature.moves(name)
        }
        self.difference: Difference = "forward" if spec.difference == "auto" else spec.difference
        self.adam = _Adam()
        self.deltas: Gradients = {}
        self.base: list[Tensor] = []  # nats of the targets of each batch; the first gradient's pass gives them
        self.base_nats, self.num_targets = 0.0, 0
        self.step_size = 0.0
        self.solved_nats: float | None = None  # what forward differences give for the last step, where it was solved

    def take_step(self, number: int) -> None:
        """Step `number` of `spec.steps`; a solved one goes its equal share of the whole move."""
        with moved(self.adapter.module, self.deltas):
            losses, gradients = losses_and_gradient(self.adapter, self.batches, self.moving)
        if number == 1:
            self._set_base(losses)
        gradients = {name: part / self.num_targets for name, part in gradients.items()}
        direction = cut_to_rank(self._direction(gradients), self.spec.rank)
        signed = {name: sign(self.spec.direction) * part for name, part in direction.items()}

        def nats_moved(step: float) -> float:
            with moved(self.adapter.module, _add(self.deltas, signed, step)):
                nats = _total_nats(self.adapter, self.batches)
            return sign(self.spec.direction) * (nats - self.base_nats) / self.num_targets

        whole_nats = _nats_to_move(self.spec, self.base_nats / self.num_targets)
        if self.spec.learning_rate is not None:
            self.step_size = self.spec.learning_rate
        else:
            self.step_size = whole_nats / self.spec.steps / _slope(gradients, direction)
            if self.difference != "jvp":  # a derivative is linear in the step: nothing to solve
                target_nats = whole_nats * number / self.spec.steps
                least_nats = LEAST_MOVE[self.spec.direction] * target_nats
                self.step_size, self.solved_nats = _solve_step(nats_moved, self.step_size, target_nats, least_nats)
        self.deltas = _add(self.deltas, signed, self.step_size)

    def _set_base(self, losses: Sequence[ExampleLoss]) -> None:
        """What the gradient's pass gave; coarse weights may round otherwise there than where rows are compared."""
        is_coarse = any(weight.dtype in COARSE for weight in self.moving.values())
        self.base = base_nats(self.adapter, self.batches) if is_coarse else [target_nats(loss) for loss in losses]
        self.base_nats = sum(float(nats_N.sum()) for nats_N in self.base)
        self.num_targets = sum(int(loss.num_targets.sum()) for loss in losses)
        if self.num_targets == 0:
            raise InputError("the query has no target: its loss mask leaves nothing to predict")

    def result(self) -> MirroredUpdate:
        reached = self._nats_moved() if self.solved_nats is None or self.difference != "forward" else self.solved_nats
        if not reached > 0:
            raise InputError(
                f"the step moves the query's loss by {reached:.3g} nats per target, the wrong way or not at all"
            )
        spec = self.spec
        return MirroredUpdate(
            self.deltas, spec.direction, self.difference, self.base_nats, self.num_targets, reached, self.step_size
        )

    def _nats_moved(self) -> float:
        """What the update does to the query, compared just as rows will be."""
        mirrored = mirrored_nats(self.adapter, self.batches, self.deltas, self.difference, self.base)
        total = sum(float(nats_N.sum()) for nats_N in mirrored)
        return sign(self.spec.direction) * (total - self.base_nats) / self.num_targets

    def _direction(self, gradients: Gradients) -> Mapping[str, Tensor]:
        """P·∇l̄: each part shaped like its parameter; parameters that P leaves out stay where they are."""
        if self.curvature is not None:
            return self.curvature.precondition(self.adapter.module, gradients)
        return self.adam.direction(gradients) if self.spec.kind == "adam" else gradients


@dataclass
class _Adam:
    """A fresh Adam: on its first step the bias corrections cancel its decay rates, g / (|g| + ε)."""

    step: int = 0
    means: Gradients = field(default_factory=dict)
    squares: Gradients = field(default_factory=dict)

    def direction(self, gradients: Gradients) -> Gradients:
        self.step += 1
        first, second = ADAM_BETAS
        result = {}
        for name, gradient in gradients.items():
            self.means[name] = first * self.means.get(name, 0) + (1 - first) * gradient
            self.squares[name] = second * self.squares.get(name, 0) + (1 - second) * gradient**2
            mean = self.means[name] / (1 - first**self.step)
            square = self.squares[name] / (1 - second**self.step)
            result[name] = mean / (square.sqrt() + ADAM_EPSILON)
        return result


def _add(deltas: Gradients, direction: Mapping[str, Tensor], step: float) -> Gradients:
    return {name: deltas.get(name, 0) + step * part for name, part in direction.items()}


def _total_nats(adapter: Adapter, batches: Sequence[Any]) -> float:
    with torch.no_grad():
        return sum(float(adapter.loss(batch).sum_nats.sum()) for batch in batches)


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
    """Go on until the target is passed, then close in; a loss that is not finite was a step too far.

    The loss is nearly linear in a short step, so every trial is where the line through the last two bounds meets the
    target, but never so near to the lower one that the upper could stay for long. Near the upper one it is not held
    back: a first step that went 2 % too far is right at the second trial.

    Where no step comes within `MOVE_TOLERANCE` (a loss that cannot fall so far, weights so coarse that
    it moves in jumps), the trial that came nearest is taken: every score is divided by what was really moved.

    Returns:
        The step, and the nats that it moves.

    Raises:
        InputError: no trial moved the loss by `least_nats`.
    """
    step, low, high = first_step, 0.0, math.inf
    nats_low, nats_high = 0.0, math.inf
    trials: list[tuple[float, float]] = []  # step, nats it moved
    for _ in range(MAX_TRIALS):
        reached = nats_moved(step)
        if abs(reached - target_nats) <= MOVE_TOLERANCE * target_nats:
            return step, reached
        if math.isfinite(reached) and reached >= least_nats:
            trials.append((step, reached))
        if 0 <= reached < target_nats:  # below 0 the step went past the best there is
            low, nats_low = step, reached
        else:
            high, nats_high = step, reached if reached > 0 else math.inf
        if high == math.inf:
            step = low * (min(2.0, max(MARGIN, target_nats / nats_low)) if nats_low > 0 else 2.0)
        else:
            share = (target_nats - nats_low) / (nats_high - nats_low) if math.isfinite(nats_high) else 0.5
            step = low + (high - low) * max(LEAST_SHARE, share)
    if not trials:
        raise InputError(f"no step moves the query's loss by {target_nats:.3g} nats per target; see update.move_nats")
    return min(trials, key=lambda trial: abs(trial[1] - target_nats))
