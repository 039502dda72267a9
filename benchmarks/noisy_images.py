"""Fashion-MNIST with some training labels made wrong, and small networks trained on it.

Name suffixes: N rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from finf_core.classifier import Labeled
from tasks.verification.cnn import TrainSettings, pixels, train
from tasks.verification.images import FASHION_MNIST, NUM_CLASSES, Images, load_images, split

NoiseKind = Literal["uniform", "pairs"]

CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
LOOKS_LIKE = (6, 3, 4, 1, 2, 7, 0, 9, 6, 7)  # the class that each is taken for: shirt for T-shirt, sneaker for boot …
SETTINGS = TrainSettings(filters=(16, 32), hidden=64, learning_rate=0.02, weight_decay=0.0, decays=True)

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class NoisyImages:
    """Training images as they are labelled, which labels are wrong, and clean images beside them."""

    train: Images
    is_wrong_N: Flags
    clean: Images


def noisy_images(num_train: int, num_clean: int, kind: NoiseKind, rate: float, seed: int) -> NoisyImages:
    """A share of the labels is wrong: any other class, or the one that looks alike."""
    images, clean = split(load_images(FASHION_MNIST), num_train, num_clean, seed)
    draw = np.random.default_rng(seed)
    is_wrong_N = np.zeros(num_train, dtype=np.bool_)
    is_wrong_N[draw.permutation(num_train)[: round(rate * num_train)]] = True
    other_N = (images.labels_N + draw.integers(1, NUM_CLASSES, num_train)) % NUM_CLASSES
    wrong_N = np.array(LOOKS_LIKE)[images.labels_N] if kind == "pairs" else other_N
    return NoisyImages(images._replace(labels_N=np.where(is_wrong_N, wrong_N, images.labels_N)), is_wrong_N, clean)


def train_network(images: Images, epochs: int, learning_rate: float, seed: int) -> nn.Module:
    settings = replace(SETTINGS, epochs=epochs, learning_rate=learning_rate)
    labels_N = torch.from_numpy(images.labels_N)
    return train(pixels(images), labels_N, torch.ones(len(labels_N)), settings, seed).eval()


def labelled(images: Images) -> list[Labeled]:
    features = pixels(images).contiguous()
    return [Labeled(each, label) for each, label in zip(features, images.labels_N.tolist(), strict=True)]


def by_class(examples: Sequence[Labeled]) -> list[list[Labeled]]:
    groups = [[example for example in examples if example.label == label] for label in range(NUM_CLASSES)]
    return [group for group in groups if group]


@torch.no_grad()
def probabilities_NC(model: nn.Module, images: Images) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = model(pixels(images)).double().softmax(-1).numpy()
    return found
