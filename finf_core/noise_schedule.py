"""How much of an image is left at each timestep of a diffusion, and what the network was trained to predict.

    x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε,    ᾱ_t = Π_{s ≤ t} (1 − β_s)

| prediction | target |
|---|---|
| `epsilon` | ε |
| `v_prediction` | √ᾱ_t · ε − √(1 − ᾱ_t) · x_0 |
| `sample` | x_0 |

Name suffixes: T timesteps of training, K of them that a loss is taken at.
Sources: Ho et al. 2020, arXiv:2006.11239 (linear, epsilon); Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17
(cosine); Salimans & Ho 2022, arXiv:2202.00512 (v). The names and formulas are those of the library diffusers.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from finf_core.errors import InputError
from finf_core.spec import Prediction, ScheduleSpec

COSINE_OFFSET, LARGEST_BETA = 0.008, 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    signal_T: Tensor  # √ᾱ_t, float64
    noise_T: Tensor  # √(1 − ᾱ_t)
    prediction: Prediction

    @classmethod
    def of_betas(cls, betas_T: Tensor, prediction: Prediction) -> "NoiseSchedule":
        """Raises InputError: a beta that is no share of the variance."""
        betas_T = betas_T.double()
        if len(betas_T) == 0 or not bool(((betas_T > 0) & (betas_T < 1)).all()):
            raise InputError("the betas of a noise schedule lie between 0 and 1")
        kept_T = (1 - betas_T).cumprod(0)
        return cls(kept_T.sqrt(), (1 - kept_T).sqrt(), prediction)

    def spread_timesteps(self, num: int) -> Tensor:
        """(K,) int64: the middles of `num` equal parts of all timesteps.

        Raises:
            InputError: there are fewer.
        """
        if num > len(self.signal_T):
            raise InputError(f"model.diffusion.timesteps = {num}, but the schedule has {len(self.signal_T)}")
        return ((torch.arange(num, dtype=torch.float64) + 0.5) * len(self.signal_T) / num).long()

    def target(self, clean: Tensor, noise: Tensor, signal: Tensor, noisiness: Tensor) -> Tensor:
        """What the network should say of a noised image; √ᾱ_t and √(1 − ᾱ_t) are shaped to go with it."""
        if self.prediction == "v_prediction":
            return signal * noise - noisiness * clean
        return noise if self.prediction == "epsilon" else clean.expand_as(noise)


def betas_of(spec: ScheduleSpec) -> Tensor:
    """(T,) float64: the share of variance that each timestep replaces by noise."""
    num = spec.train_timesteps
    if spec.beta_schedule == "squaredcos_cap_v2":
        kept = [_cosine(step / num) for step in range(num + 1)]
        betas = [min(1 - kept[step + 1] / kept[step], LARGEST_BETA) for step in range(num)]
        return torch.tensor(betas, dtype=torch.float64)
    power = 0.5 if spec.beta_schedule == "scaled_linear" else 1.0
    first, last = spec.beta_start**power, spec.beta_end**power
    return torch.linspace(first, last, num, dtype=torch.float64) ** (1 / power)


def _cosine(share: float) -> float:
    return math.cos((share + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
