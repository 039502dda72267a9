"""Fashion-MNIST with some training labels made wrong, and small networks trained on it.

python -m benchmarks.noisy_images FOLDER   writes Parquet, weights and configs of `finf mislabel` and `finf memorize`
(wrong labels are marked by the column `is_wrong`, which finf does not read).

Name suffixes: N rows, C classes.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn

from finf_core.classifier import Labeled
from finf_core.images import encode_png
from tasks.verification.cnn import SIDE, TrainSettings, build, pixels, train
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
SETTINGS = TrainSettings(filters=(16, 32), hidden=64, epochs=8, learning_rate=0.02, weight_decay=0.0, decays=True)

CONFIG = """\
kind = "{kind}"
name = "fashion"
model = {{ kind = "classifier", factory = "benchmarks.noisy_images:network", path = "{folder}/model" }}
rank = {{ top_k = {top_k} }}
{queries}

[corpus]
path = "{folder}/train"
image_column = "image"
image_mode = "L"
label_column = "label"
label_names = {names}
"""

QUERIES = 'queries = {{ path = "{folder}/clean/0.parquet", group_column = "label" }}'

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


def train_network(images: Images, settings: TrainSettings, seed: int) -> nn.Module:
    labels_N = torch.from_numpy(images.labels_N)
    return train(pixels(images), labels_N, torch.ones(len(labels_N)), settings, seed).eval()


def labelled(images: Images) -> list[Labeled]:
    features = pixels(images).contiguous()
    return [Labeled(each, label) for each, label in zip(features, images.labels_N.tolist(), strict=True)]


def by_class(examples: Sequence[Labeled]) -> list[list[Labeled]]:
    groups = [[example for example in examples if example.label == label] for label in range(NUM_CLASSES)]
    return [group for group in groups if group]


def network() -> nn.Module:
    """For `model.factory`."""
    return build(SETTINGS)


def write_example(folder: Path, num_train: int, num_clean: int, kind: NoiseKind, rate: float, seed: int) -> None:
    """Corpus, clean rows, weights and configs."""
    data = noisy_images(num_train, num_clean, kind, rate, seed)
    model = train_network(data.train, SETTINGS, seed)
    for name, images, flags_N in (("train", data.train, data.is_wrong_N), ("clean", data.clean, None)):
        (folder / name).mkdir(parents=True)
        pictures = [encode_png(pixels_P.reshape(SIDE, SIDE)) for pixels_P in images.pixels_NP]
        columns = {"image": pictures, "label": images.labels_N}
        columns |= {} if flags_N is None else {"is_wrong": flags_N}
        pq.write_table(pa.table(columns), folder / name / "0.parquet", row_group_size=256)
    (folder / "model").mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model/w.safetensors")
    names, queries = json.dumps(CLASS_NAMES), QUERIES.format(folder=folder)
    for run, top_k, asked in (("mislabel", 60, queries), ("memorize", 12, "")):
        text = CONFIG.format(kind=run, folder=folder, names=names, top_k=top_k, queries=asked)
        (folder / f"{run}.toml").write_text(text, encoding="utf-8")


@torch.no_grad()
def probabilities_NC(model: nn.Module, images: Images) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = model(pixels(images)).double().softmax(-1).numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--clean", type=int, default=500)
    parser.add_argument("--noise", choices=["uniform", "pairs"], default="pairs")
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    given = arguments.rows, arguments.clean, arguments.noise, arguments.rate, arguments.seed
    write_example(arguments.folder, *given)


if __name__ == "__main__":
    main()
