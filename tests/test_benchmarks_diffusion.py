"""What the table of `benchmarks.diffusion` rests on: removals that remove, scores that are compared rightly."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.denoisers import SIDE, ResidualDenoiser, schedule, train
from benchmarks.diffusion_methods import NoiseOfItsOwn
from benchmarks.diffusion_planted import plant, recall
from benchmarks.diffusion_truth import random_halves

IMAGES = torch.rand(12, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def trained_weights(images: torch.Tensor, kept: torch.Tensor, seed: int = 0) -> torch.Tensor:
    network = train(lambda: ResidualDenoiser(width=8, num_blocks=1), images, kept, num_steps=4, seed=seed)
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def test_an_image_that_is_left_out_is_never_seen_and_all_else_stays_as_it_was() -> None:
    kept = torch.ones(12, dtype=torch.bool)
    whole = trained_weights(IMAGES, kept)
    assert torch.equal(whole, trained_weights(IMAGES, kept))
    kept[[2, 7]] = False
    without, changed = trained_weights(IMAGES, kept), IMAGES.clone()
    changed[[2, 7]] = 1.0
    assert torch.equal(without, trained_weights(changed, kept))
    assert not torch.equal(without, whole)
    assert not torch.equal(whole, trained_weights(IMAGES, ~kept | kept, seed=1))


def test_random_halves_are_halves_and_each_another() -> None:
    halves = random_halves(40, 30)
    assert set(halves.sum(1)) == {20}
    assert len({tuple(half) for half in halves}) == 30


def test_marks_are_planted_in_their_rows_and_recall_counts_them() -> None:
    planted = plant(IMAGES, IMAGES[:2].clone(), num_marks=2, rows_per_mark=3)
    places = [place for of_mark in planted.places for place in of_mark]
    assert len(set(places)) == 6
    others = [row for row in range(12) if row not in places]
    assert torch.equal(planted.rows[others], IMAGES[others])
    for number, (corner, of_mark) in enumerate(zip((slice(0, 4), slice(10, 14)), planted.places, strict=True)):
        mark = planted.queries[number, 0, corner, :4]
        assert all(torch.equal(planted.rows[row, 0, corner, :4], mark) for row in of_mark)
        assert mark.abs().eq(1).all()
    scores = np.zeros((12, 2))
    scores[planted.places[0], 0] = 1.0
    scores[planted.places[1][:1], 1] = 1.0
    scores[[row for row in range(12) if row not in planted.places[1]], 1] = 0.5
    assert recall(scores, planted.places, 3) == pytest.approx((1 + 1 / 3) / 2)


def test_noise_of_an_image_s_own_is_that_of_its_copy_and_of_no_other() -> None:
    adapter = NoiseOfItsOwn(ResidualDenoiser(width=8, num_blocks=1), schedule(), 4)
    noise = adapter.noise_for(torch.stack([IMAGES[0], IMAGES[1], IMAGES[0]]))
    assert noise.shape == (3, 4, 1, SIDE, SIDE)
    assert torch.equal(noise[0], noise[2])
    assert abs(float((noise[0] * noise[1]).mean())) < 0.1
