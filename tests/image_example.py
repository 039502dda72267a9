"""A small image corpus of real digits with planted copies of test images, and a network that has learned it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from finf_core.images import encode_png

SIDE, CLASSES = 8, 10
FACTORY = "image_example:digit_network"
NUM_TRAIN, NUM_TEST, NUM_PLANTED = 240, 12, 4

Pixels = npt.NDArray[np.uint8]


def digit_network() -> nn.Module:
    """With BatchNorm and dropout, which must stay as they were trained."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 16, CLASSES),
    )


def digits() -> tuple[Pixels, list[int]]:
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, SIDE, SIDE) * 255 / 16).round().astype(np.uint8), labels.tolist()


def train_network(images_NHW: Pixels, labels: Sequence[int], epochs: int = 30) -> nn.Module:
    torch.manual_seed(0)
    network = digit_network()
    features = torch.from_numpy(images_NHW.astype(np.float32) / 255)[:, None]
    targets = torch.tensor(labels)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(targets)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(network(features[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()


def save_network(network: nn.Module, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def as_png(images: Pixels) -> list[dict[str, Any]]:
    """As the image feature of `datasets` stores them."""
    return [{"bytes": encode_png(image), "path": None} for image in images]


def write_images(path: Path, images: Any, labels: Sequence[int], ids: Sequence[str], group_rows: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, "label": list(labels), "name": list(ids)})
    pq.write_table(table, path, row_group_size=group_rows)


def write_example(folder: Path, form: str = "png") -> dict[str, Any]:
    """Corpus (two shards), queries, weights; returns the config. The first `NUM_PLANTED` queries are in the corpus."""
    images, labels = digits()
    tests, test_labels = images[:NUM_TEST], labels[:NUM_TEST]
    corpus = np.concatenate([images[NUM_TEST : NUM_TEST + NUM_TRAIN], tests[:NUM_PLANTED]])
    corpus_labels = labels[NUM_TEST : NUM_TEST + NUM_TRAIN] + test_labels[:NUM_PLANTED]
    order = np.random.default_rng(0).permutation(len(corpus))
    names = [f"train-{i}" if i < NUM_TRAIN else f"copy-{i - NUM_TRAIN}" for i in order]
    stored = as_png(corpus[order]) if form == "png" else corpus[order].tolist()
    half = len(order) // 2
    for shard, part in enumerate((slice(None, half), slice(half, None))):
        of_part = [corpus_labels[i] for i in order[part]]
        write_images(folder / "corpus" / f"{shard}.parquet", stored[part], of_part, names[part])
    write_images(folder / "queries.parquet", as_png(tests), test_labels, [f"test-{i}" for i in range(NUM_TEST)])
    save_network(train_network(corpus, corpus_labels), folder / "model")
    return digit_config(folder) | {
        "queries": {"path": str(folder / "queries.parquet"), "id_column": "name"},
        "update": {"kind": "kfac"},
        "rank": {"top_k": 5},
    }


def digit_config(folder: Path) -> dict[str, Any]:
    """Model and corpus, where the examples put them."""
    return {
        "name": "digits",
        "model": {"kind": "classifier", "path": str(folder / "model"), "factory": FACTORY},
        "corpus": {
            "path": str(folder / "corpus"),
            "image_column": "image",
            "image_mode": "L",
            "label_column": "label",
            "id_column": "name",
        },
    }


def toml(config: dict[str, Any]) -> str:
    """A config of plain values, sections, and tables within these."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for section, values in config.items():
        if isinstance(values, dict):
            plain += [f"[{section}]", *(f"{key} = {_inline(value)}" for key, value in values.items())]
    return "\n".join(plain)


def _inline(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{key} = {_inline(part)}" for key, part in value.items()) + "}"
