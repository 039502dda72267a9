"""Noise, baselines and tables of `benchmarks.mislabel` and `benchmarks.memorize`."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.memorize import Units, memorised, nats_MN, network, train
from benchmarks.mislabel import gradient_dots, precision
from benchmarks.mislabel_page import render_section
from benchmarks.noisy_images import LOOKS_LIKE, noisy_images
from tasks.verification.cnn import SIDE, pixels
from tasks.verification.images import Images


@pytest.mark.parametrize("kind", ["uniform", "pairs"])
def test_just_so_many_labels_are_wrong_and_they_are_those_that_are_said_to_be(kind: str) -> None:
    noisy, right = (noisy_images(300, 20, kind, rate, seed=3) for rate in (0.3, 0.0))  # type: ignore[arg-type]
    assert noisy.is_wrong_N.sum() == 90
    assert (noisy.train.labels_N != right.train.labels_N).tolist() == noisy.is_wrong_N.tolist()
    assert (noisy.train.pixels_NP == right.train.pixels_NP).all()
    taken_for = np.array(LOOKS_LIKE)[right.train.labels_N][noisy.is_wrong_N] == noisy.train.labels_N[noisy.is_wrong_N]
    assert taken_for.all() if kind == "pairs" else 0 < taken_for.sum() < 30


def test_precision_looks_at_as_many_rows_as_are_wrong() -> None:
    is_wrong = np.array([True, False, True, False, False])
    assert precision(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), is_wrong) == 0.5
    assert precision(np.array([5.0, 1.0, 3.0, 2.0, 1.0]), is_wrong) == 1.0


def test_gradient_dots_are_products_of_gradients_taken_one_by_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 6), nn.Tanh(), nn.Linear(6, 10))
    draw = np.random.default_rng(0)
    rows, clean = (
        Images(draw.integers(0, 256, (num, SIDE**2), dtype=np.uint8), draw.integers(0, 10, num)) for num in (5, 3)
    )

    def gradient(images: Images, row: int) -> torch.Tensor:
        logits = model(pixels(images)[row : row + 1])[0]
        nats = torch.logsumexp(logits, 0) - logits[images.labels_N[row]]
        return torch.cat([part.flatten() for part in torch.autograd.grad(nats, list(model.parameters()))])

    whole = sum(gradient(clean, row) for row in range(3))
    assert gradient_dots(model, rows, clean) == pytest.approx(
        [float(gradient(rows, row) @ whole) for row in range(5)], rel=1e-4
    )


def digits_units(num: int = 40) -> Units:
    draw = np.random.default_rng(0)
    features, labels = torch.from_numpy(draw.random((num, 64))).float(), torch.from_numpy(draw.integers(0, 10, num))
    return Units(features, labels, np.arange(num), np.zeros(num, dtype=np.bool_))


def test_networks_side_by_side_are_networks_and_see_only_their_rows() -> None:
    units, other = digits_units(), digits_units()
    seen_MN = torch.ones(3, 40)
    seen_MN[1, 10:] = 0
    weights = train(units, seen_MN, seed=5)
    logits = network(weights, 1)(units.features_NI)
    expected = torch.logsumexp(logits, 1) - logits[torch.arange(40), units.labels_N]
    torch.testing.assert_close(nats_MN(weights, units)[1], expected.detach(), rtol=1e-4, atol=1e-4)
    other.labels_N[10:] = (other.labels_N[10:] + 1) % 10
    again = train(other, seen_MN, seed=5)
    assert torch.equal(weights[0][1], again[0][1])
    assert not torch.equal(weights[0][0], again[0][0])


def test_random_labels_are_memorised_and_nothing_else_could_be() -> None:
    truth_U, halves_2U = memorised(digits_units(), 50, seed=0)
    assert truth_U.mean() > 0.7  # right when seen; by chance when not
    assert halves_2U.shape == (2, 40)


def test_the_page_shows_means_over_the_seeds_that_there_are_and_the_best_two() -> None:
    cells = [
        {
            "training": "short",
            "noise": "pairs",
            "rate": rate,
            "seed": seed,
            "accuracy_on_clean_rows": 0.5,
            "accuracy_on_wrong_labels": 0.25,
            "methods": {
                name: {"auc": value + 0.02 * seed, "precision": 1 - value}
                for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.7))
            },
        }
        for rate, seed in ((0.2, 0), (0.2, 1), (0.1, 0))
    ]
    lines = render_section({"date": "today", "num_rows": 9, "num_clean": 3, "cells": cells}).splitlines()
    assert "| method | 10% wrong (1 seed) | 20% wrong (2 seeds) |" in lines
    assert "| a | 0.50 · **0.50** | 0.51 ± 0.13 · **0.50** ± 0.00 |" in lines
    assert "| c | **0.70** · 0.30 | **0.71** ± 0.13 · 0.30 ± 0.00 |" in lines
