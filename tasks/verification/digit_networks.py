"""Small networks of handwritten digits, 8 × 8, trained in a second: one tells them, one draws them.

Name suffix: B rows of a batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finf_core.classifier import Classifier
from finf_core.diffusion import Diffusion
from finf_core.noise_schedule import NoiseSchedule, betas_of
from finf_core.spec import ScheduleSpec
from tasks.verification.adapter_groups import Row
from tasks.verification.images import NUM_CLASSES

SIDE, BATCH_ROWS, TIMESTEPS = 8, 50, 16
SCHEDULE = ScheduleSpec(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")


def train_classifier(rows: Sequence[Row], num_epochs: int, learning_rate: float, seed: int) -> Classifier:
    """SGD from random weights; these and the batches are those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _classifier()
        batch = Classifier(network).collate([example for row in rows for example in row])
        network.requires_grad_(True)
        optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=1e-3)
        for _ in range(num_epochs):
            for rows_B in torch.randperm(len(rows)).split(BATCH_ROWS):
                optimizer.zero_grad()
                F.cross_entropy(network(batch.features_BX[rows_B]), batch.labels_B[rows_B]).backward()
                optimizer.step()
    return Classifier(network)


def train_denoiser(rows: Sequence[Row], num_seen: int, learning_rate: float, seed: int) -> Diffusion:
    """AdamW from random weights; these, the batches and the noise are those of the seed.

    Args:
        num_seen: images in all batches: as many however many rows there are.
    """
    schedule = NoiseSchedule.of_betas(betas_of(SCHEDULE), SCHEDULE.prediction_type)
    images = torch.stack([example.features for row in rows for example in row])
    num_steps = num_seen // BATCH_ROWS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitDenoiser()
        optimizer = torch.optim.AdamW(network.parameters(), learning_rate)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps)
        for _ in range(num_steps):
            optimizer.zero_grad()
            _denoising_loss(network, images[torch.randint(len(images), (BATCH_ROWS,))], schedule).backward()
            optimizer.step()
            rate.step()
    return Diffusion(network, schedule, TIMESTEPS)


class DigitDenoiser(nn.Module):
    """Two residual layers over all pixels."""

    def __init__(self, width: int = 128, num_waves: int = 16) -> None:
        super().__init__()
        self.rates = torch.exp(-9.2 * torch.arange(num_waves) / num_waves)
        self.read, self.time = nn.Linear(SIDE**2, width), nn.Linear(2 * num_waves, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.write = nn.Linear(width, SIDE**2)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep[:, None] * self.rates
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        state = self.read(sample.flatten(1))
        for block in self.blocks:
            state = state + block(state + time)
        predicted: Tensor = self.write(state).view_as(sample)
        return predicted


def _classifier() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(16 * (SIDE // 2) ** 2, 32), nn.ReLU(), nn.Linear(32, NUM_CLASSES)),
    )


def _denoising_loss(network: nn.Module, clean: Tensor, schedule: NoiseSchedule) -> Tensor:
    timesteps_B, noise = torch.randint(len(schedule.signal_T), (len(clean),)), torch.randn_like(clean)
    signal, noisiness = (
        each_T[timesteps_B].float()[:, None, None, None] for each_T in (schedule.signal_T, schedule.noise_T)
    )
    predicted = network(signal * clean + noisiness * noise, timesteps_B)
    return F.mse_loss(predicted, schedule.target(clean, noise, signal, noisiness))
