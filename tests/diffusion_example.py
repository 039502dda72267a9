"""A small U-Net of diffusers that has learned real digits, images to explain, and a tiny denoiser for the maths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import DDPMScheduler, UNet2DModel
from image_example import SIDE, Pixels, as_png, digits
from torch import Tensor, nn

from finf_core.diffusion import CleanImage, Diffusion
from finf_core.noise_schedule import NoiseSchedule, betas_of
from finf_core.spec import Prediction, ScheduleSpec

NUM_TRAIN, NUM_TEST, NUM_PLANTED = 100, 4, 2
FACTORY = "diffusion_example:tiny_network"


class TinyDenoiser(nn.Module):
    """Convolutions, a group norm, dropout, and a linear layer that reads the timestep."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.read, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.time, self.drop = nn.Linear(2, 4), nn.Dropout(0.5)
        self.write = nn.Conv2d(4, channels, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        share = timestep.to(sample.dtype)[:, None] / 20
        time = self.time(torch.cat([share.sin(), share.cos()], 1))
        state = self.norm(self.read(sample)) + time[:, :, None, None]
        return self.write(self.drop(torch.tanh(state)))


def tiny_network() -> nn.Module:
    return TinyDenoiser()


def tiny_diffusion(prediction: Prediction = "epsilon", normalise: bool = False, num_timesteps: int = 3) -> Diffusion:
    """In float64; a schedule of 20 timesteps."""
    torch.manual_seed(0)
    schedule = ScheduleSpec(train_timesteps=20, beta_end=0.3)
    noises = NoiseSchedule.of_betas(betas_of(schedule), prediction)
    return Diffusion(TinyDenoiser().double(), noises, num_timesteps, seed=4, normalise=normalise)


def clean_images(number: int, num_timesteps: int = 3, seed: int = 0) -> list[CleanImage]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 2, 5, 4, generator=generator, dtype=torch.float64)
    return [CleanImage(image, num_timesteps) for image in images]


def digit_unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        dropout=0.1,
    )


def train_unet(pixels: Pixels, num_steps: int = 120) -> tuple[UNet2DModel, DDPMScheduler]:
    """By the library's own schedule."""
    torch.manual_seed(0)
    network, scheduler = digit_unet(), DDPMScheduler(prediction_type="v_prediction")
    images = torch.from_numpy(pixels.astype(np.float32))[:, None] / 127.5 - 1
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(num_steps):
        clean = images[torch.randint(len(images), (32,))]
        noise, timesteps = torch.randn_like(clean), torch.randint(1000, (32,))
        said = network(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = (said - scheduler.get_velocity(clean, noise, timesteps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), scheduler


def write_images(path: Path, pixels: Pixels, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": as_png(pixels), "name": list(names)}), path, row_group_size=40)


def write_example(folder: Path) -> dict[str, Any]:
    """Corpus (two shards), queries, a folder of diffusers; returns the config. The corpus holds the first queries."""
    pixels, _ = digits()
    tests = pixels[:NUM_TEST]
    corpus = np.concatenate([tests[:NUM_PLANTED], pixels[NUM_TEST : NUM_TEST + NUM_TRAIN]])
    names = [f"copy-{i}" for i in range(NUM_PLANTED)] + [f"train-{i}" for i in range(NUM_TRAIN)]
    half = len(corpus) // 2
    for shard, part in enumerate((slice(None, half), slice(half, None))):
        write_images(folder / "corpus" / f"{shard}.parquet", corpus[part], names[part])
    write_images(folder / "queries.parquet", tests, [f"test-{i}" for i in range(NUM_TEST)])
    network, scheduler = train_unet(corpus)
    network.save_pretrained(folder / "model" / "unet")
    scheduler.save_pretrained(folder / "model" / "scheduler")
    return {
        "kind": "attribute",
        "name": "digits",
        "model": {"kind": "diffusion", "path": str(folder / "model"), "diffusion": {"timesteps": 4}},
        "corpus": {
            "path": str(folder / "corpus"),
            "image_column": "image",
            "image_mode": "L",
            "id_column": "name",
        },
        "queries": {"path": str(folder / "queries.parquet"), "id_column": "name"},
        "update": {"kind": "kfac"},
        "rank": {"top_k": 5, "opponents_k": 3},
    }
