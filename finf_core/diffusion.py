"""The diffusion adapter: the loss of an image is that of its denoising, at fixed timesteps and with fixed noise.

    l(x_0) = Σ_k ½ ‖target_k − f(x_{t_k}, t_k)‖²        k = 1 … K; each timestep is a target

That is a negative log-likelihood in nats (less a constant): the target is Gaussian round the prediction, variance 1, as
in the training loss. Timesteps and noise are the same for every image, before and after an update: what is left of
a difference is the update's (that the noise stays the same was crucial in Wang et al. 2024, arXiv:2406.09408), and a
copy of the query has its very loss, so a ratio of 1.

With `normalise`, the variance is the one that fits each image at each timestep best: the loss is D/2 · log of the mean
squared error over D numbers. A timestep then counts by how its error changes relative to what it is, and none outweighs
the others (after Xie et al. 2024, arXiv:2401.09031, which divides gradients by their norms at each timestep).

Name suffixes: B images, K timesteps, N = B · K of both, C × H × W an image; without a suffix (B, K, C, H, W).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.losses import ExampleLoss
from finf_core.noise_schedule import NoiseSchedule
from finf_core.wide import wide

ERROR_FLOOR = 1e-5  # mean squared error that counts as none: about the rounding of a picture to 256 shades


@dataclass(frozen=True)
class CleanImage:
    """One example: an image as the network was trained on it; it costs as many passes as there are timesteps."""

    features: Tensor  # (C, H, W)
    num_timesteps: int

    def __len__(self) -> int:
        return self.num_timesteps


class ImageBatch(NamedTuple):
    images_BCHW: Tensor
    drawn: Tensor | None = None  # (B, K, C, H, W), drawn by the model itself; None: what noise and image say


class Diffusion:
    """Adapter (`finf_core.adapter`) round a module that is called with (sample, timesteps) and gives `.sample`, or it.

    Dropout is off: the module is in `eval()`.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: NoiseSchedule,
        num_timesteps: int = 16,
        seed: int = 0,
        normalise: bool = False,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.schedule, self.seed, self.normalise = schedule, seed, normalise
        self.timesteps_K = schedule.spread_timesteps(num_timesteps)
        self.known_noise: dict[tuple[int, ...], Tensor] = {}

    def collate(self, examples: Sequence[CleanImage]) -> ImageBatch:
        """Stack the images, on the module's device and in its dtype.

        Raises:
            InputError: they differ in size.
        """
        parameter = next(self.module.parameters())
        shapes = {tuple(example.features.shape) for example in examples}
        if len(shapes) > 1:
            raise InputError(f"images of different sizes, {sorted(shapes)[:2]}; set model.images.size")
        return ImageBatch(torch.stack([example.features for example in examples]).to(parameter))

    def loss(self, batch: ImageBatch) -> ExampleLoss:
        """Nats of each timestep of each image."""
        noised, targets = self._noised(batch.images_BCHW)
        predictions = self._predict(noised)
        targets = targets if batch.drawn is None else batch.drawn
        nats_BK = self._nats(predictions, targets)
        num_targets_B = torch.full(nats_BK.shape[:1], nats_BK.shape[1], device=nats_BK.device)
        return ExampleLoss(nats_BK.double().sum(1), num_targets_B, nats_BK.flatten())

    @torch.no_grad()
    def sample_labels(self, batch: ImageBatch, generator: torch.Generator) -> ImageBatch:
        """The same batch with targets drawn from the Gaussians round the predictions (for the true Fisher)."""
        noised, targets = self._noised(batch.images_BCHW)
        predictions = self._predict(noised)
        drawn = torch.randn(predictions.shape, dtype=predictions.dtype, device=predictions.device, generator=generator)
        if self.normalise:
            errors_BK = _mean_squares(predictions, targets)
            drawn *= errors_BK.sqrt().to(drawn)[:, :, None, None, None]
        return batch._replace(drawn=predictions + drawn)

    @torch.no_grad()
    def nats_of_nothing(self, batch: ImageBatch) -> float:
        """Nats per target of a network that always says 0: what a trained one must stay below."""
        _, targets = self._noised(batch.images_BCHW)
        return float(self._nats(torch.zeros_like(targets), targets).mean())

    def noise_for(self, images_BCHW: Tensor) -> Tensor:
        """(K, C, H, W): the noise of each timestep, drawn once for each size of images, from the seed, on the CPU."""
        shape = tuple(images_BCHW.shape[1:])
        if shape not in self.known_noise:
            generator = torch.Generator().manual_seed(self.seed)
            self.known_noise[shape] = torch.randn((len(self.timesteps_K), *shape), generator=generator)
        return self.known_noise[shape].to(images_BCHW)

    def _noised(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Each image at each timestep, and what the network should say of it; both (B, K, C, H, W)."""
        clean, noise = torch.broadcast_tensors(images_BCHW[:, None], self.noise_for(images_BCHW))
        signal_K111, noisiness_K111 = (
            share_T[self.timesteps_K].to(images_BCHW)[:, None, None, None]
            for share_T in (self.schedule.signal_T, self.schedule.noise_T)
        )
        targets = self.schedule.target(clean, noise, signal_K111, noisiness_K111)
        return signal_K111 * clean + noisiness_K111 * noise, targets

    def _predict(self, noised: Tensor) -> Tensor:
        """Raises InputError: the network gives another shape than it is given."""
        timesteps_N = self.timesteps_K.to(noised.device).repeat(len(noised))
        output = self.module(noised.flatten(0, 1), timesteps_N)
        predictions_NCHW: Tensor = getattr(output, "sample", output)
        if predictions_NCHW.shape != noised.flatten(0, 1).shape:
            got, given = tuple(predictions_NCHW.shape[1:]), tuple(noised.shape[2:])
            raise InputError(
                f"the network makes {got} of images {given}: it must predict one number for each of theirs"
            )
        return predictions_NCHW.view_as(noised)

    def _nats(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """(B, K)."""
        errors_BK = _mean_squares(predictions, targets)
        relative_BK = torch.log1p(errors_BK / ERROR_FLOOR) if self.normalise else errors_BK
        return predictions[0, 0].numel() / 2 * relative_BK


def _mean_squares(predictions: Tensor, targets: Tensor) -> Tensor:
    return (wide(predictions) - wide(targets)).square().flatten(2).mean(2)
