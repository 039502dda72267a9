"""The diffusion adapter: `finf_core.diffusion`, against plain numpy, one image and one timestep at a time."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusion_example import TinyDenoiser, clean_images, tiny_diffusion

from finf_core import UpdateSpec, fit_curvature, mirrored_update, score_rows
from finf_core.diffusion import ERROR_FLOOR, CleanImage, Diffusion
from finf_core.errors import InputError
from finf_core.layers import factored_layers
from finf_core.moving import moving_parameters
from finf_core.noise_schedule import NoiseSchedule, betas_of
from finf_core.scores import influence_score, row_ratio
from finf_core.spec import ScheduleSpec

IMAGES = clean_images(6)
PREDICTIONS: list[Any] = ["epsilon", "v_prediction", "sample"]


def slow_nats(adapter: Diffusion, image: CleanImage, index: int, prediction: str, normalise: bool) -> float:
    """Of the tiny schedule (20 timesteps, 3 of them), by its definition: a product of one factor for each step."""
    timestep = int((index + 0.5) * 20 / 3)
    kept = math.prod(1 - (1e-4 + step * (0.3 - 1e-4) / 19) for step in range(timestep + 1))
    noise = torch.randn((3, 2, 5, 4), generator=torch.Generator().manual_seed(4))[index].numpy().astype(np.float64)
    clean = image.features.numpy()
    noised = math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise
    with torch.no_grad():
        said = adapter.module(torch.from_numpy(noised)[None], torch.tensor([timestep]))[0].numpy()
    velocity = math.sqrt(kept) * noise - math.sqrt(1 - kept) * clean
    wanted = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction]
    squares = sum((float(a) - float(b)) ** 2 for a, b in zip(wanted.ravel(), said.ravel(), strict=True))
    if normalise:
        return clean.size / 2 * math.log(1 + squares / clean.size / ERROR_FLOOR)
    return squares / 2


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_timestep_of_each_image_equals_the_slow_reference(prediction: Any, normalise: bool) -> None:
    adapter = tiny_diffusion(prediction, normalise)
    loss = adapter.loss(adapter.collate(IMAGES))
    expected = [slow_nats(adapter, image, index, prediction, normalise) for image in IMAGES for index in range(3)]
    assert loss.target_nats is not None
    assert loss.target_nats.tolist() == pytest.approx(expected, rel=1e-6)  # the schedule's roots are float64, too
    assert loss.sum_nats.tolist() == pytest.approx(np.reshape(expected, (6, 3)).sum(1).tolist(), rel=1e-6)
    assert loss.num_targets.tolist() == [3] * 6


def test_noise_is_the_same_before_and_after_in_any_batch_and_for_any_adapter_of_the_seed() -> None:
    first, second = tiny_diffusion(), tiny_diffusion()
    together = first.loss(first.collate(IMAGES)).target_nats
    again = first.loss(first.collate(IMAGES)).target_nats
    elsewhere = second.loss(second.collate(IMAGES)).target_nats
    assert together is not None
    assert torch.equal(together, again)  # type: ignore[arg-type]
    assert torch.equal(together, elsewhere)  # type: ignore[arg-type]
    alone = torch.cat([first.loss(first.collate([image])).target_nats for image in IMAGES])  # type: ignore[misc]
    torch.testing.assert_close(together, alone)
    other = Diffusion(first.module, first.schedule, 3, seed=5)
    assert not torch.allclose(other.loss(other.collate(IMAGES)).sum_nats, first.loss(first.collate(IMAGES)).sum_nats)


def test_noise_that_a_scoring_pass_drew_serves_a_pass_with_gradients() -> None:
    adapter = tiny_diffusion()
    adapter.module.float()  # the dtype of the noise: nothing is copied on the way
    with torch.inference_mode():
        before = adapter.loss(adapter.collate(IMAGES)).sum_nats.clone()
    adapter.module.requires_grad_(True)
    after = adapter.loss(adapter.collate(IMAGES)).sum_nats
    after.sum().backward()
    assert torch.equal(before, after.detach())


def test_dropout_is_off_though_the_module_came_in_training() -> None:
    module = TinyDenoiser().double().train()
    adapter = Diffusion(module, tiny_diffusion().schedule, 3)
    losses = [adapter.loss(adapter.collate(IMAGES)).sum_nats for _ in range(2)]
    assert torch.equal(*losses)


def test_normalised_losses_change_by_the_share_that_the_error_changes() -> None:
    """A timestep with an error a thousand times as large then weighs as much as any other."""
    adapter = tiny_diffusion(normalise=True)
    targets = torch.randn(1, 2, 1, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.tensor([1.0, 30.0], dtype=torch.float64)[:, None, None, None]
    before, after = (adapter._nats(targets * (1 + scale * share), targets) for share in (0.1, 0.101))
    rises = (after - before)[0]
    assert rises.tolist() == pytest.approx([450 * math.log(1.01**2)] * 2, rel=0.01)
    plain = tiny_diffusion()
    before, after = (plain._nats(targets * (1 + scale * share), targets) for share in (0.1, 0.101))
    rises = (after - before)[0]
    assert float(rises[1] / rises[0]) == pytest.approx(900, rel=0.2)


def test_images_of_different_sizes_and_networks_of_other_shapes_are_refused() -> None:
    adapter = tiny_diffusion()
    other = CleanImage(torch.zeros(2, 5, 5, dtype=torch.float64), 3)
    with pytest.raises(InputError, match=r"different sizes, .* set model\.images\.size"):
        adapter.collate([IMAGES[0], other])

    class WithVariance(TinyDenoiser):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return super().forward(sample, timestep).repeat(1, 2, 1, 1)

    doubled = Diffusion(WithVariance().double(), adapter.schedule, 3)
    with pytest.raises(InputError, match=r"makes \(4, 5, 4\) of images \(2, 5, 4\)"):
        doubled.loss(doubled.collate(IMAGES))


# ---- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_schedule_noised_images_and_velocities_are_those_of_diffusers(beta_schedule: Any) -> None:
    theirs = DDPMScheduler(beta_schedule=beta_schedule, num_train_timesteps=700)
    spec = ScheduleSpec(beta_schedule=beta_schedule, train_timesteps=700, prediction_type="v_prediction")
    ours = NoiseSchedule.of_betas(betas_of(spec), "v_prediction")
    torch.testing.assert_close(ours.signal_T.float() ** 2, theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    clean, noise = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 10, 300, 600, 699])
    shares = [each_T[timesteps].float()[:, None, None, None] for each_T in (ours.signal_T, ours.noise_T)]
    velocity = theirs.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(ours.target(clean, noise, *shares), velocity, rtol=1e-3, atol=1e-3)


def test_timesteps_are_the_middles_of_equal_parts() -> None:
    schedule = NoiseSchedule.of_betas(betas_of(ScheduleSpec()), "epsilon")
    assert schedule.spread_timesteps(4).tolist() == [125, 375, 625, 875]
    assert schedule.spread_timesteps(1000).tolist() == list(range(1000))
    with pytest.raises(InputError, match=r"timesteps = 1001, but the schedule has 1000"):
        schedule.spread_timesteps(1001)


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0, 0.1], [float("nan")]])
def test_betas_that_are_no_shares_are_refused(betas: list[float]) -> None:
    with pytest.raises(InputError, match="betas of a noise schedule lie between 0 and 1"):
        NoiseSchedule.of_betas(torch.tensor(betas), "epsilon")


# ---- targets of the model's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
def test_drawn_targets_lie_round_the_predictions_with_the_spread_of_the_loss(normalise: bool) -> None:
    """Variance 1, or the mean squared error of the image at the timestep."""
    adapter = tiny_diffusion(normalise=normalise)
    batch = adapter.collate(IMAGES[:1])
    noised, targets = adapter._noised(batch.images_BCHW)
    said = adapter.module(noised[0], adapter.timesteps_K)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([adapter.sample_labels(batch, generator).drawn[0] for _ in range(400)])  # type: ignore[index]
    expected = (said - targets[0]).square().mean(dim=(1, 2, 3)).sqrt() if normalise else torch.ones(3)
    torch.testing.assert_close((drawn - said).std(dim=(0, 2, 3, 4)), expected.to(drawn), rtol=0.02, atol=0)
    assert float((drawn.mean(0) - said).abs().max()) < 0.25
    sampled = adapter.sample_labels(batch, torch.Generator().manual_seed(1))
    again = adapter.sample_labels(batch, torch.Generator().manual_seed(1))
    assert torch.equal(sampled.drawn, again.drawn)  # type: ignore[arg-type]
    nats = adapter.loss(sampled).target_nats
    squares = (sampled.drawn - said).square().sum(dim=(2, 3, 4))  # type: ignore[operator]
    expected_nats = 20 * torch.log1p(squares / 40 / ERROR_FLOOR) if normalise else squares / 2
    torch.testing.assert_close(nats, expected_nats.flatten())


def test_kfac_moves_convolutions_and_linear_layers_over_all_timesteps_and_leaves_the_norm() -> None:
    adapter = tiny_diffusion()
    layers = factored_layers(adapter.module, moving_parameters(adapter.module, "all"))
    assert set(layers) == {"read", "time", "write"}
    spec = UpdateSpec(kind="kfac")
    curvature = fit_curvature(adapter, as_rows(IMAGES), spec, 100)
    update = mirrored_update(adapter, IMAGES[:1], spec, curvature)
    assert {name.split(".")[0] for name in update.deltas} == {"read", "time", "write"}
    angles = adapter.timesteps_K.double() / 20
    inputs_KI = torch.stack([angles.sin(), angles.cos(), torch.ones(3, dtype=torch.float64)], 1)  # of every image
    values = torch.linalg.eigvalsh(inputs_KI.T @ inputs_KI / 3)
    found = curvature.factors["time"]  # type: ignore[union-attr]
    torch.testing.assert_close(found.input_values_I, values.clamp(min=0), rtol=1e-5, atol=1e-7)


# ---- the whole way ---------------------------------------------------------------------------------------------------


def as_rows(images: list[CleanImage]) -> list[list[CleanImage]]:
    return [[image] for image in images]


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", ["sgd", "adam", "diagonal", "kfac", "ekfac"])
def test_a_copy_of_the_query_has_ratio_one_and_the_batch_size_changes_nothing(kind: Any, normalise: bool) -> None:
    adapter, spec = tiny_diffusion("v_prediction", normalise), UpdateSpec(kind=kind)
    curvature = fit_curvature(adapter, as_rows(IMAGES), spec, batch_tokens=6)
    copied = [copy.deepcopy(IMAGES[1])]
    update = mirrored_update(adapter, copied, spec, curvature)
    ratios = []
    for batch_tokens in (3, 6, 100):
        losses = score_rows(adapter, as_rows(IMAGES), [update], batch_tokens)
        scores_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, "ascent")
        ratios.append(row_ratio(scores_RQ, losses.num_targets_R, np.array([update.moved_nats]))[:, 0].tolist())
    assert ratios[0][1] == pytest.approx(1.0, rel=1e-7)
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-7)
    assert ratios[2] == pytest.approx(ratios[0], rel=1e-7)


def test_nothing_learned_costs_half_a_nat_for_each_number_of_unit_noise() -> None:
    adapter = tiny_diffusion(num_timesteps=20)
    images = clean_images(50, 20)
    assert adapter.nats_of_nothing(adapter.collate(images)) == pytest.approx(40 / 2, rel=0.1)
