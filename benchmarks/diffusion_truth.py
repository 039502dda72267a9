"""What training without some images really does to the loss of generated ones.

Losses are taken over timesteps and noise that no method has seen. Name suffixes: Q queries, R rows (training images),
H random halves of the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.denoisers import schedule, trained
from finf_core.diffusion import CleanImage, Diffusion
from finf_core.fingerprint import fingerprint
from finf_core.scores import Floats

Kept = npt.NDArray[np.bool_]

UNSEEN_TIMESTEPS, UNSEEN_SEED = 64, 1


@dataclass(frozen=True)
class Retraining:
    """The same training again and again, each time without some rows; what was trained once is kept in the folder."""

    folder: Path
    build: Callable[[], nn.Module]
    rows: Tensor
    queries: Tensor
    num_steps: int

    def network(self, kept_R: Kept, seed: int) -> nn.Module:
        name = fingerprint([self.num_steps, seed, np.flatnonzero(kept_R).tolist()])[:16]
        kept = torch.from_numpy(kept_R)
        return trained(self.folder / f"{name}.safetensors", self.build, self.rows, kept, self.num_steps, seed)

    def losses(self, kept_R: Kept, seed: int) -> Floats:
        """(Q,): nats per timestep."""
        return unseen_losses(self.network(kept_R, seed), self.queries)

    def losses_without(self, places: Sequence[int], seed: int) -> Floats:
        kept_R = np.ones(len(self.rows), dtype=bool)
        kept_R[list(places)] = False
        return self.losses(kept_R, seed)


def unseen_losses(network: nn.Module, images: Tensor) -> Floats:
    """(Q,): nats per timestep of each image, at timesteps and with noise of their own."""
    adapter = Diffusion(network, schedule(), UNSEEN_TIMESTEPS, UNSEEN_SEED)
    with torch.no_grad():
        loss = adapter.loss(adapter.collate([CleanImage(image, UNSEEN_TIMESTEPS) for image in images]))
    return loss.sum_nats.numpy() / UNSEEN_TIMESTEPS


def random_halves(num_rows: int, num_halves: int) -> Kept:
    """(H, R): which rows are in each."""
    rng = np.random.default_rng(1)
    halves = np.zeros((num_halves, num_rows), dtype=bool)
    for half in halves:
        half[rng.permutation(num_rows)[: num_rows // 2]] = True
    return halves
