"""Small denoisers of Fashion-MNIST at 14 × 14, trained in seconds on one thread, and images generated from them.

Name suffixes: N images, B of a batch, K timesteps; images are (·, 1, 14, 14), from -1 to 1.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finf_core.noise_schedule import NoiseSchedule, betas_of
from finf_core.spec import ScheduleSpec
from tasks.verification.images import FASHION_MNIST, load_images, split

SIDE, BATCH, RATE = 14, 64, 4e-3
SCHEDULE = ScheduleSpec(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
DDIM_STEPS = 25


class ResidualDenoiser(nn.Module):
    """Residual layers over all pixels at once: on a CPU a tenth of the time of convolutions that learn as much."""

    def __init__(self, width: int = 256, num_blocks: int = 3, num_waves: int = 32) -> None:
        super().__init__()
        self.frequencies = [math.exp(-9.2 * wave / num_waves) for wave in range(num_waves)]
        self.read = nn.Linear(SIDE**2, width)
        self.time = nn.Sequential(nn.Linear(2 * num_waves, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_block(width) for _ in range(num_blocks))
        self.write, self.keep = nn.Linear(width, SIDE**2), nn.Linear(width, 1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep[:, None] * torch.tensor(self.frequencies, dtype=sample.dtype)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        pixels = sample.flatten(1)
        state = self.read(pixels)
        for block in self.blocks:
            state = state + block(state + time)
        return (self.write(state) + self.keep(time) * pixels).view_as(sample)


def unet() -> nn.Module:
    """The U-Net of diffusers, small."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )


def fashion(num_train: int, num_test: int) -> tuple[Tensor, Tensor]:
    train, test = split(load_images(FASHION_MNIST), num_train, num_test, seed=0)
    found = [torch.from_numpy(part.shades_NP()).view(-1, 1, 28, 28) for part in (train, test)]
    return F.avg_pool2d(found[0], 2) * 2 - 1, F.avg_pool2d(found[1], 2) * 2 - 1


def schedule() -> NoiseSchedule:
    return NoiseSchedule.of_betas(betas_of(SCHEDULE), SCHEDULE.prediction_type)


def train(build: Callable[[], nn.Module], images_N: Tensor, kept_N: Tensor, num_steps: int, seed: int) -> nn.Module:
    """Train on the images that are kept; start, timesteps and noise are those of the seed whatever is left out.

    Args:
        kept_N: bool. Where a batch would hold an image that is left out, another one takes its place.
    """
    torch.manual_seed(seed)
    network, noises = build(), schedule()
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=num_steps)
    places = kept_N.nonzero()[:, 0]
    for _ in range(num_steps):
        wanted_B, instead_B = torch.randint(len(images_N), (BATCH,)), torch.randint(1 << 30, (BATCH,))
        clean = images_N[torch.where(kept_N[wanted_B], wanted_B, places[instead_B % len(places)])]
        timesteps_B, noise = torch.randint(len(noises.signal_T), (BATCH,)), torch.randn_like(clean)
        signal, noisiness = (
            each_T[timesteps_B].float()[:, None, None, None] for each_T in (noises.signal_T, noises.noise_T)
        )
        target = noises.target(clean, noise, signal, noisiness)
        loss = F.mse_loss(says(network, signal * clean + noisiness * noise, timesteps_B), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return network.eval()


def trained(
    file: Path, build: Callable[[], nn.Module], images_N: Tensor, kept_N: Tensor, num_steps: int, seed: int
) -> nn.Module:
    """The same, read from the file where it is there."""
    if file.exists():
        network = build()
        network.load_state_dict(load_file(file))
        return network.eval()
    network = train(build, images_N, kept_N, num_steps, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), file)
    return network


@torch.no_grad()
def generate(network: nn.Module, num: int, seed: int) -> Tensor:
    """Images from noise, by DDIM in a few steps, rounded to 256 shades."""
    from diffusers import DDIMScheduler

    sampler: Any = DDIMScheduler(
        num_train_timesteps=SCHEDULE.train_timesteps,
        beta_schedule=SCHEDULE.beta_schedule,
        prediction_type=SCHEDULE.prediction_type,
    )
    sampler.set_timesteps(DDIM_STEPS)
    images = torch.randn(num, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    for timestep in sampler.timesteps:
        images = sampler.step(says(network, images, timestep.expand(num)), timestep, images).prev_sample
    shades = ((images.clamp(-1, 1) + 1) * 127.5).round()
    return shades / 127.5 - 1


def says(network: nn.Module, noised: Tensor, timesteps: Tensor) -> Tensor:
    output = network(noised, timesteps)
    found: Tensor = getattr(output, "sample", output)
    return found


def _block(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
