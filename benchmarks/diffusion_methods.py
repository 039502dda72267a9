"""Ways to say which training images a generated image came from: each gives a score for every image and query.

Name suffixes: R rows (training images), Q queries; images are (·, 1, 14, 14).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.denoisers import schedule
from finf_core.curvature import fit_curvature
from finf_core.diffusion import CleanImage, Diffusion
from finf_core.fingerprint import fingerprint
from finf_core.scores import Floats, influence_score, row_ratio
from finf_core.scoring import score_rows
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update

BATCH_IMAGES = 64


class NoiseOfItsOwn(Diffusion):
    """Each image with noise that its pixels decide: the same before and after an update, another one for each image."""

    def noise_for(self, images_BCHW: Tensor) -> Tensor:
        return torch.stack([self._of_one(image_CHW) for image_CHW in images_BCHW])

    def _of_one(self, image_CHW: Tensor) -> Tensor:
        seed = int(fingerprint(image_CHW.tolist())[:12], 16)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((len(self.timesteps_K), *image_CHW.shape), generator=generator).to(image_CHW)


@dataclass(frozen=True)
class Mirrored:
    """finf's scores: mirrored updates of this kind, losses over these timesteps."""

    update: UpdateSpec
    normalise: bool = False
    num_timesteps: int = 16
    adapter: type[Diffusion] = Diffusion

    def __call__(self, network: nn.Module, rows: Tensor, queries: Tensor) -> Floats:
        adapter = self.adapter(network, schedule(), self.num_timesteps, normalise=self.normalise)
        of_rows, of_queries = (
            [[CleanImage(image, self.num_timesteps)] for image in images] for images in (rows, queries)
        )
        batch = BATCH_IMAGES * self.num_timesteps
        curvature = fit_curvature(adapter, of_rows, self.update, batch)
        updates = [mirrored_update(adapter, query, self.update, curvature) for query in of_queries]
        losses = score_rows(adapter, of_rows, updates, batch)
        scores_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, self.update.direction)
        return row_ratio(scores_RQ, losses.num_targets_R, np.array([update.moved_nats for update in updates]))


def pixel_nearness(network: nn.Module, rows: Tensor, queries: Tensor) -> Floats:
    """Minus the distance between the pixels."""
    return -torch.cdist(rows.flatten(1), queries.flatten(1)).double().numpy()


def random_scores(network: nn.Module, rows: Tensor, queries: Tensor) -> Floats:
    return np.random.default_rng(0).normal(size=(len(rows), len(queries)))


Method = Callable[[nn.Module, Tensor, Tensor], Floats]

RELEASED = UpdateSpec(kind="adam", learning_rate=5e-3)
METHODS: dict[str, Method] = {
    "random": random_scores,
    "pixel distance (L2)": pixel_nearness,
    "released recipe (adam, one step, rate 5e-3)": Mirrored(RELEASED),
    "adam, solved step": Mirrored(UpdateSpec(kind="adam")),
    "adam, solved step, normalised": Mirrored(UpdateSpec(kind="adam"), normalise=True),
    "plain ascent (sgd)": Mirrored(UpdateSpec(kind="sgd")),
    "plain ascent (sgd), normalised": Mirrored(UpdateSpec(kind="sgd"), normalise=True),
    "diagonal Fisher": Mirrored(UpdateSpec(kind="diagonal")),
    "diagonal Fisher, normalised": Mirrored(UpdateSpec(kind="diagonal"), normalise=True),
    "kfac": Mirrored(UpdateSpec(kind="kfac")),
    "kfac, normalised": Mirrored(UpdateSpec(kind="kfac"), normalise=True),
    "kfac, noise of each image's own": Mirrored(UpdateSpec(kind="kfac"), adapter=NoiseOfItsOwn),
    "kfac, 64 timesteps": Mirrored(UpdateSpec(kind="kfac"), num_timesteps=64),
    "ekfac": Mirrored(UpdateSpec(kind="ekfac")),
}


@dataclass(frozen=True)
class Scored:
    scores_RQ: Floats
    seconds: float


def score_with(name: str, network: nn.Module, rows: Tensor, queries: Tensor) -> Scored:
    started = time.process_time()
    return Scored(METHODS[name](network, rows, queries), time.process_time() - started)
