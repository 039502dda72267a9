"""Is the signal of a mirrored update above the noise of the arithmetic? Measured on a sample of rows before a run.

The rows are scored four times: the update forwards and backwards, at its own step and, in other batches and with the
moved weights rounded another way, at half of it. What should be equal and is not tells the three parts apart:

    change at +δ      =  s + c + e         s  signal: odd in δ, grows with it
    −change at −δ     =  s − c − e         c  curved part: even in δ, grows with its square
    2·change at +δ/2  =  s + c/2 + 2e      e  error of the base loss: the same whatever the step
                                           and in each of them, rounding of its own

A forward difference suffers rounding and e; a central one only rounding; both lose θ* + δ to weights that are too
coarse to hold it, and neither lets the next measurement see that, so coarse weights are rounded at random (`moved`).
Name suffixes: R rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from finf_core.curvature import Curvature
from finf_core.errors import InputError
from finf_core.memory import is_out_of_memory
from finf_core.scores import Floats, influence_score, mean_loss
from finf_core.scoring import score_rows
from finf_core.spec import Difference, UpdateSpec
from finf_core.updates import MirroredUpdate, mirrored_update
from finf_core.wide import COARSE

LARGER_STEP = 4.0
OTHER_PLAN = 0.6  # of the token budget: other batches, other padding
MOST_CURVED = 1.0  # a forward difference whose curved part outgrows the signal is no derivative any more


Dtype = Literal["as loaded", "float32"]


@dataclass(frozen=True)
class Precision:
    """How changes are taken: which difference, how large a step, in which dtype."""

    difference: Difference
    step_factor: float = 1.0  # of the move or the learning rate asked for
    dtype: Dtype = "as loaded"

    def apply(self, spec: UpdateSpec) -> UpdateSpec:
        rate = None if spec.learning_rate is None else spec.learning_rate * self.step_factor
        return replace(
            spec, difference=self.difference, move_nats=spec.move_nats * self.step_factor, learning_rate=rate
        )

    def __str__(self) -> str:
        step = "" if self.step_factor == 1 else f", {self.step_factor:g}x step"
        return f"{self.difference}{step}" + (", float32 weights" if self.dtype == "float32" else "")


LADDER = (  # cheapest first
    Precision("forward"),
    Precision("forward", LARGER_STEP),
    Precision("central"),
    Precision("central", LARGER_STEP),
    Precision("jvp"),
    Precision("forward", dtype="float32"),
)


@dataclass(frozen=True)
class Trust:
    """What one choice gives on the sample (medians over its queries), nats of a row for each nat of the query."""

    signal: float  # root mean square over the rows
    noise: float  # the same
    curved: float  # even part over signal
    ratio: float  # signal over noise

    def enough(self, least_ratio: float) -> bool:
        """Always, where no ratio is asked for: whoever wants a large step as it is, gets it."""
        return not least_ratio or (self.ratio >= least_ratio and self.curved <= MOST_CURVED)


@dataclass(frozen=True)
class Trial:
    precision: Precision
    trust: Trust | None  # None: the update could not be solved
    reason: str = ""


Rows = Sequence[Sequence[Any]]


def choose_precision(
    adapter: Any,
    rows: Rows,
    queries: Rows,
    spec: UpdateSpec,
    curvature: Curvature | None,
    batch_tokens: int,
) -> tuple[Precision, list[Trial]]:
    """The first choice of `LADDER` whose signal is `spec.least_signal` times its noise, and all that was tried.

    With `spec.difference` other than "auto" only that one is tried, as it is.

    Raises:
        InputError: none reaches it; the message holds what each reached.
    """
    trials: list[Trial] = []
    for precision in candidates(spec, next(adapter.module.parameters()).dtype):
        trials.append(_try(adapter, rows, queries, precision, spec, curvature, batch_tokens))
        trust = trials[-1].trust
        if trust is not None and trust.enough(spec.least_signal):
            return precision, trials
    raise InputError(
        f"the update's signal does not stand out from rounding: wanted {spec.least_signal:g} times the noise, got "
        + "; ".join(f"{trial.precision}: {describe(trial)}" for trial in trials)
        + ". Try model.dtype = 'float32', a larger update.move_nats, or other update.moves"
    )


def candidates(spec: UpdateSpec, dtype: torch.dtype) -> Iterator[Precision]:
    """What may be tried: only the difference that the spec names, if it names one."""
    if spec.difference != "auto":
        yield Precision(spec.difference)
        return
    for precision in LADDER:
        if precision.dtype == "as loaded" or dtype in COARSE:
            yield precision


def describe(trial: Trial) -> str:
    return trial.reason if trial.trust is None else f"{trial.trust.ratio:.3g}"


def measure(adapter: Any, rows: Rows, update: MirroredUpdate, batch_tokens: int) -> Trust:
    """Signal, noise and curved part of one update on these rows."""

    def ratios(scales: Sequence[float], plan_tokens: int) -> list[Floats]:
        scaled = [replace(update, deltas={k: scale * part for k, part in update.deltas.items()}) for scale in scales]
        losses = score_rows(adapter, rows, scaled, plan_tokens)
        change_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, update.direction)
        means = [mean_loss(change_R, losses.num_targets_R) for change_R in change_RQ.T]
        return [mean_R / (scale * update.moved_nats) for mean_R, scale in zip(means, scales, strict=True)]

    other_tokens = max(1, int(OTHER_PLAN * batch_tokens))
    if update.difference != "forward":  # odd by construction
        [one_R], [other_R] = ratios([1.0], batch_tokens), ratios([0.5], other_tokens)
        return _trust(_rms((one_R + other_R) / 2), _rms(one_R - other_R) / np.sqrt(1 + 4), 0.0)
    plus_R, minus_R = ratios([1.0, -1.0], batch_tokens)
    half_plus_R, half_minus_R = ratios([0.5, -0.5], other_tokens)
    odd_R, half_odd_R = (plus_R + minus_R) / 2, (half_plus_R + half_minus_R) / 2
    even_R, half_even_R = (plus_R - minus_R) / 2, (half_plus_R - half_minus_R) / 2
    rounding = _rms(odd_R - half_odd_R) / np.sqrt(0.5 + 2)
    base_error = np.sqrt(max(0.0, _rms((2 * half_even_R - even_R) / 3) ** 2 - rounding**2))
    return _trust(_rms(odd_R), float(np.hypot(rounding, base_error)), _rms((4 * even_R - 2 * half_even_R) / 3))


def _try(
    adapter: Any,
    rows: Rows,
    queries: Rows,
    precision: Precision,
    spec: UpdateSpec,
    curvature: Curvature | None,
    batch_tokens: int,
) -> Trial:
    asked = precision.apply(spec)
    with in_dtype(adapter, precision.dtype):
        found = []
        for query in queries:
            try:
                update = mirrored_update(adapter, query, asked, curvature)
            except InputError as error:
                return Trial(precision, None, str(error))
            except RuntimeError as error:
                if asked.difference != "jvp" or is_out_of_memory(error):
                    raise
                return Trial(precision, None, "PyTorch has no forward mode for some layer of this network")
            found.append(measure(adapter, rows, update, batch_tokens))
    parts = np.array([[trust.signal, trust.noise, trust.curved, trust.ratio] for trust in found])
    return Trial(precision, Trust(*np.median(parts, axis=0).tolist()))


def _trust(signal: float, noise: float, curved: float) -> Trust:
    floor = np.finfo(np.float64).eps * signal  # two equal measurements do not prove that there is no noise at all
    return Trust(signal, noise, curved / signal if signal else np.inf, signal / max(noise, floor) if signal else 0.0)


def _rms(values_R: Floats) -> float:
    return float(np.sqrt(np.mean(values_R**2)))


@contextmanager
def in_dtype(adapter: Any, dtype: Dtype) -> Iterator[None]:
    """The model with its very same weights held, and computed with, in float32 while open."""
    tensors = [*adapter.module.parameters(), *adapter.module.buffers()]
    loaded = [tensor.data for tensor in tensors]
    try:
        if dtype == "float32":
            widen(adapter.module)
        yield
    finally:
        for tensor, data in zip(tensors, loaded, strict=True):
            tensor.data = data


def widen(module: nn.Module) -> None:
    """Coarse weights as float32, in place; the values stay the same."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.dtype in COARSE:
            tensor.data = tensor.data.float()
