"""What the group check is made of for each kind of model: real data, half of it spoilt, small enough to train often.

`classifier`  handwritten digits, half with another digit's label
`diffusion`   handwritten digits, half laid on their side
`causal_lm`   passages of two gospels, half with their tokens in another order

Test items are never spoilt. Name suffix: N rows, or images.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from finf_core.adapter import Adapter
from finf_core.classifier import Labeled
from finf_core.diffusion import CleanImage
from finf_core.fingerprint import digest_chunks, fingerprint
from finf_core.windows import Window
from tasks.evaluation.tiny_lm import TinyLM
from tasks.evaluation.tiny_lm_training import TrainingSettings, train_subset
from tasks.verification.adapter_groups import AdapterKind, AdapterSettings, Material, Row
from tasks.verification.digit_networks import SIDE, TIMESTEPS, train_classifier, train_denoiser
from tasks.verification.groups import Kept
from tasks.verification.images import NUM_CLASSES, Ints

WHITE = 16  # in scikit-learn's digits
IMAGES_PER_PASS, TOKENS_PER_PASS = 256, 4096


def make_material(settings: AdapterSettings) -> Material:
    """The same for the same settings."""
    makers: dict[AdapterKind, Callable[[AdapterSettings, np.random.Generator], Material]] = {
        "classifier": mislabelled_digits,
        "diffusion": turned_digits,
        "causal_lm": shuffled_passages,
    }
    return makers[settings.kind](settings, np.random.default_rng(settings.seed))


def mislabelled_digits(settings: AdapterSettings, generator: np.random.Generator) -> Material:
    images, labels_N, digest = _digits(settings, generator)
    is_spoilt_N, num_rows = _half(settings.num_rows, generator), settings.num_rows
    labels_N[:num_rows] += np.where(is_spoilt_N, generator.integers(1, NUM_CLASSES, num_rows), 0)
    rows: list[Row] = [[Labeled(*pair)] for pair in zip(images, (labels_N % NUM_CLASSES).tolist(), strict=True)]

    def train(chosen: Sequence[Row], seed: int) -> Adapter:
        return train_classifier(chosen, settings.num_epochs, settings.learning_rate, seed)

    return Material(rows[:num_rows], is_spoilt_N, rows[num_rows:], train, IMAGES_PER_PASS, digest)


def turned_digits(settings: AdapterSettings, generator: np.random.Generator) -> Material:
    images, _, digest = _digits(settings, generator)
    is_spoilt_N, num_rows = _half(settings.num_rows, generator), settings.num_rows
    images[:num_rows][is_spoilt_N] = images[:num_rows][is_spoilt_N].mT
    rows: list[Row] = [[CleanImage(image * 2 - 1, TIMESTEPS)] for image in images]

    def train(chosen: Sequence[Row], seed: int) -> Adapter:
        return train_denoiser(chosen, settings.num_epochs * num_rows, settings.learning_rate, seed)

    return Material(rows[:num_rows], is_spoilt_N, rows[num_rows:], train, IMAGES_PER_PASS * TIMESTEPS, digest)


def shuffled_passages(settings: AdapterSettings, generator: np.random.Generator) -> Material:
    training = replace(TrainingSettings(), num_epochs=settings.num_epochs, learning_rate=settings.learning_rate)
    lm = TinyLM(settings=training)
    passages, is_spoilt_N = lm.rows[-settings.num_rows :], _half(settings.num_rows, generator)
    rows = [_shuffled(row, generator) if spoilt else row for row, spoilt in zip(passages, is_spoilt_N, strict=True)]

    def train(chosen: Sequence[Row], seed: int) -> Adapter:
        return train_subset(chosen, range(len(chosen)), lm.tokenizer.get_vocab_size(), training, seed)

    test = lm.queries[: settings.num_test]
    return Material(rows, is_spoilt_N, test, train, TOKENS_PER_PASS, fingerprint(lm.identity))


def _digits(settings: AdapterSettings, generator: np.random.Generator) -> tuple[Tensor, Ints, str]:
    """Training images, then test images, (N, 1, 8, 8) from 0 to 1; their labels; the digest of all digits."""
    pixels_NP, labels_N = load_digits(return_X_y=True)
    drawn = generator.permutation(len(labels_N))[: settings.num_rows + settings.num_test]
    images = torch.from_numpy(pixels_NP[drawn].astype(np.float32) / WHITE).view(-1, 1, SIDE, SIDE)
    return images, labels_N[drawn], digest_chunks([pixels_NP.tobytes(), labels_N.tobytes()])


def _half(num_rows: int, generator: np.random.Generator) -> Kept:
    is_spoilt_N = np.zeros(num_rows, dtype=bool)
    is_spoilt_N[generator.permutation(num_rows)[: num_rows // 2]] = True
    return is_spoilt_N


def _shuffled(row: Sequence[Window], generator: np.random.Generator) -> Row:
    """The same tokens in another order; the first stays: every row begins with it."""
    tokens = generator.permutation(np.concatenate([window.labels for window in row]))
    return [Window(np.concatenate([row[0].input_ids[:1], tokens[:-1]]), tokens)]
