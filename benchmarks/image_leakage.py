"""Leakage in images, the experiment of the paper: test images that stand in the training set are looked for in it.

1 % of the training images are copied into the test set, as they are or changed (moved, cropped, brighter, JPEG); a
ResNet-18-shaped network has learned the training set. Each test image is a query, and the question is whether its
training image is the first of all rows, or among the first five. One query of five is for choosing settings, the others
for the figures. Clean test images tell how far a found image stands out.

python -m benchmarks.image_leakage [--preset cpu|gpu] [--folder FOLDER] [--page FILE] [--json]
"""

import argparse
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import image_networks
from benchmarks.pages import markdown_table, replace_section
from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.images import encode_png
from finf_core.metrics import auc
from finf_core.scores import Floats, Ints, control_z, other_ratios
from flows.environment import set_environment
from tasks.config import parse_config
from tasks.joined_scores import joined_units
from tasks.options import RunOptions
from tasks.resolve_inputs import read_job
from tasks.settle import settle
from tasks.unit_result import RATIOS, row_ratios
from tasks.verification.images import FASHION_MNIST, Images, load_images

HEADING = "## Leakage in images"
SIDE, SEED = 28, 0
SHARDS = 4
TUNED_SHARE = 0.2  # of the leaked queries


@dataclass(frozen=True)
class Preset:
    """Sizes of a run."""

    factory: str
    num_train: int
    epochs: int
    num_queries: int  # of each kind: 1 % of the training images, at least 40
    num_clean: int


PRESETS = {
    "cpu": Preset("small", 2_000, 20, 40, 40),
    "gpu": Preset("full", 50_000, 30, 500, 500),
}
KINDS = ("exact", "moved", "cropped", "brighter", "jpeg")
UPDATES: dict[str, dict[str, Any]] = {
    "released recipe": {"kind": "adam", "learning_rate": 5e-3, "difference": "forward", "least_signal": 0.0},
    "sgd, 0.1 nats": {"kind": "sgd"},
    "kfac, 0.01 nats": {"kind": "kfac", "move_nats": 0.01},
    "kfac, 0.1 nats": {"kind": "kfac"},
}
RELEASED = "released recipe, absolute change"


@dataclass(frozen=True)
class Inputs:
    train: Images
    queries: list[np.ndarray]  # pixels
    labels: list[int]
    kinds: list[str]  # one of KINDS, or "clean"
    true_rows: list[int]  # -1 for clean ones


def change(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A near-duplicate: moved by up to two pixels, 24 of 28 enlarged, a quarter to a half brighter, or JPEG 50."""
    if kind == "moved":
        down, right = rng.choice([-2, -1, 1, 2], 2)
        return np.roll(pixels, (down, right), axis=(0, 1))
    if kind == "cropped":
        top, left = rng.integers(0, 5, 2)
        part = Image.fromarray(pixels).crop((left, top, left + 24, top + 24))
        return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    if kind == "brighter":
        return np.clip(pixels * rng.uniform(1.25, 1.5), 0, 255).astype(np.uint8)
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        return np.asarray(Image.open(file))
    return pixels


def make_inputs(preset: Preset) -> Inputs:
    rng = np.random.default_rng(SEED)
    images = load_images(FASHION_MNIST)
    order = rng.permutation(60_000)
    train, test = images.take(order[: preset.num_train]), images.take(60_000 + rng.permutation(10_000))
    queries: list[np.ndarray] = []
    labels: list[int] = []
    kinds: list[str] = []
    true_rows: list[int] = []
    for kind in KINDS:
        for row in rng.choice(preset.num_train, preset.num_queries, replace=False).tolist():
            queries.append(change(train.pixels_NP[row].reshape(SIDE, SIDE), kind, rng))
            labels.append(int(train.labels_N[row]))
            kinds.append(kind)
            true_rows.append(row)
    for row in range(preset.num_clean):
        queries.append(test.pixels_NP[row].reshape(SIDE, SIDE))
        labels.append(int(test.labels_N[row]))
        kinds.append("clean")
        true_rows.append(-1)
    return Inputs(train, queries, labels, kinds, true_rows)


def features_of(pixels_NHW: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels_NHW.reshape(-1, 1, SIDE, SIDE).astype(np.float32) / 255)


def prepare(preset: Preset, inputs: Inputs, folder: Path) -> image_networks.ResNet18:
    """Corpus, queries and network in the folder; the network is trained once for each preset."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(preset.num_train), SHARDS)):
        part = inputs.train.take(rows)
        write_images(folder / "corpus" / f"{number}.parquet", list(part.pixels_NP), part.labels_N.tolist())
    write_images(folder / "queries.parquet", inputs.queries, inputs.labels)
    network = getattr(image_networks, preset.factory)()
    weights = folder / "model" / "model.safetensors"
    if not weights.exists():
        weights.parent.mkdir(exist_ok=True)
        torch.manual_seed(SEED)
        network = getattr(image_networks, preset.factory)()
        labels = torch.from_numpy(inputs.train.labels_N)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        image_networks.train(network.to(device), features_of(inputs.train.pixels_NP), labels, preset.epochs, SEED)
        save_file({name: tensor.cpu() for name, tensor in network.state_dict().items()}, weights)
    network = getattr(image_networks, preset.factory)()
    network.load_state_dict(load_file(weights))
    return network.eval()


def write_images(path: Path, pixels: list[np.ndarray], labels: list[int]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [{"bytes": encode_png(each.reshape(SIDE, SIDE)), "path": None} for each in pixels]
    pq.write_table(pa.table({"image": encoded, "label": labels}), path, row_group_size=128)


def score(name: str, update: Mapping[str, Any], preset: Preset, folder: Path) -> Floats:
    """(R, Q): `row_ratio` of every training image for every query, by a run of `finf attribute`."""
    from flows.scan import run_scan

    config = {
        "kind": "attribute",
        "name": fingerprint(name)[:8],
        "model": {
            "kind": "classifier",
            "path": str(folder / "model"),
            "factory": f"benchmarks.image_networks:{preset.factory}",
        },
        "corpus": {
            "path": str(folder / "corpus"),
            "image_column": "image",
            "image_mode": "L",
            "label_column": "label",
        },
        "queries": {"path": str(folder / "queries.parquet")},
        "update": dict(update),
        "strategy": {"kind": "every_query"},
        "rank": {"top_k": 5},
    }
    run = run_scan(parse_config(config, name), RunOptions(store=str(folder / "store")))
    return np.concatenate([row_ratios(each.read(RATIOS)) for each in joined_units(settle(read_job(run)))])


def orders(name: str, ratio_RQ: Floats) -> Iterator[tuple[str, Floats]]:
    """What rows can be ordered by, from one run."""
    yield f"{name}, signed", ratio_RQ
    yield f"{name}, absolute change", np.abs(ratio_RQ)
    yield f"{name}, control_z", control_z(ratio_RQ, other_ratios(ratio_RQ))


def baselines(network: image_networks.ResNet18, inputs: Inputs) -> Iterator[tuple[str, Floats]]:
    """Without an update: pixels, the network's features, gradients of rows and queries."""
    train, queries = features_of(inputs.train.pixels_NP), features_of(np.stack(inputs.queries))
    yield "pixel distance", -torch.cdist(train.flatten(1), queries.flatten(1)).numpy()
    with torch.inference_mode():
        of_train, of_queries = (F.normalize(network.features(each)).numpy() for each in (train, queries))
    yield "cosine of the network's features", of_train @ of_queries.T
    of_queries = np.stack([_gradient(network, queries[i], inputs.labels[i]) for i in range(len(queries))])
    norm_Q = np.linalg.norm(of_queries, axis=1)
    dots, cosines = [], []
    for row, label in enumerate(inputs.train.labels_N.tolist()):
        gradient = _gradient(network, train[row], label)
        dots.append(of_queries @ gradient)
        cosines.append(dots[-1] / (norm_Q * np.linalg.norm(gradient) + 1e-30))
    yield "gradient dot product", np.stack(dots)
    yield "gradient cosine", np.stack(cosines)


def _gradient(network: image_networks.ResNet18, image: Tensor, label: int) -> np.ndarray:
    loss = F.cross_entropy(network(image[None]), torch.tensor([label]))
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))]).numpy()


def places(value_RQ: Floats, inputs: Inputs) -> Ints:
    """How many rows come before each query's own (a tie counts half); -1 for clean queries."""
    found = np.full(len(inputs.queries), -1.0)
    for query, row in enumerate(inputs.true_rows):
        if row >= 0:
            values = np.nan_to_num(value_RQ[:, query], nan=-np.inf)
            found[query] = np.sum(values > values[row]) + (np.sum(values == values[row]) - 1) / 2
    return np.floor(found).astype(np.int64)


def is_for_choosing(inputs: Inputs) -> np.ndarray:
    draw = np.random.default_rng(SEED + 1)
    return draw.random(len(inputs.queries)) < TUNED_SHARE


def figures(value_RQ: Floats, inputs: Inputs) -> dict[str, Any]:
    place_Q, kinds, choosing = places(value_RQ, inputs), np.array(inputs.kinds), is_for_choosing(inputs)
    most_Q = np.nanmax(np.where(np.isfinite(value_RQ), value_RQ, np.nan), axis=0)
    is_clean = kinds == "clean"
    held_back = {kind: (kinds == kind) & ~choosing for kind in KINDS}
    return {
        "chosen_by": float(np.mean(place_Q[~is_clean & choosing] == 0)),
        **{
            kind: {
                "top1": float(np.mean(place_Q[is_here] == 0)),
                "top5": float(np.mean(place_Q[is_here] < 5)),
                "auc": auc(most_Q[is_here | is_clean], is_here[is_here | is_clean]),
                "num": int(is_here.sum()),
            }
            for kind, is_here in held_back.items()
        },
    }


def measure(preset_name: str, folder: Path) -> dict[str, Any]:
    started, preset = time.monotonic(), PRESETS[preset_name]
    inputs = make_inputs(preset)
    network = prepare(preset, inputs, folder)
    with torch.inference_mode():
        hits = network(features_of(inputs.train.pixels_NP)).argmax(1) == torch.from_numpy(inputs.train.labels_N)
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for name, update in UPDATES.items():
        try:
            ratio_RQ = score(name, update, preset, folder)
        except InputError as error:  # a step that some query cannot take
            refused[name] = str(error)
            continue
        for order, value_RQ in orders(name, ratio_RQ):
            found[order] = figures(value_RQ, inputs)
    for name, value_RQ in baselines(network, inputs):
        found[name] = figures(value_RQ, inputs)
    ours = [name for name in found if name.split(",")[0] in ("sgd", "kfac")]
    return {
        "preset": preset_name,
        "date": date.today().isoformat(),
        "num_train": preset.num_train,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "training_accuracy": float(hits.float().mean()),
        "num_clean": preset.num_clean,
        "chosen": max(ours, key=lambda name: found[name]["chosen_by"]),
        "methods": found,
        "refused": refused,
        "seconds": round(time.monotonic() - started, 1),
    }


def render(result: Mapping[str, Any]) -> str:
    """The section of docs/RESULTS.md."""
    num = result["methods"][RELEASED]["exact"]["num"]
    lines = [
        HEADING,
        "",
        f"`python -m benchmarks.image_leakage --preset {result['preset']}`, {result['date']}: "
        f"{result['num_train']:,} images of "
        f"Fashion-MNIST, a ResNet-18-shaped network of {result['num_parameters'] / 1e6:.2f} M parameters that has "
        f"learned them (accuracy on them {result['training_accuracy']:.3f}). About {num} test images of each kind are "
        "training images, as they are or changed. Top-1 / Top-5: their training image is the first of all rows, or "
        f"among the first five. AUC: by a query's best row, against {result['num_clean']} clean test images. Settings "
        f"were chosen by Top-1 on another fifth of the queries: **{result['chosen']}**. {result['seconds']:,.0f} s.",
        "",
    ]
    rows = [
        [f"**{name}**" if name == result["chosen"] else name]
        + [f"{found[kind]['top1']:.2f} / {found[kind]['top5']:.2f} ({found[kind]['auc']:.2f})" for kind in KINDS]
        for name, found in result["methods"].items()
    ]
    refused = [f"Refused: {name} ({reason})." for name, reason in result["refused"].items()]
    table = markdown_table(["Top-1 / Top-5 (AUC)", *KINDS], rows)
    return "\n".join([*lines, *table, "", *refused])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs/image-leakage"))
    parser.add_argument("--page", type=Path, help="replace the section in this file, docs/RESULTS.md")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_environment()
    result = measure(arguments.preset, arguments.folder / arguments.preset)
    if arguments.page:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(replace_section(page, render(result)), encoding="utf-8")
    print(json.dumps(result) if arguments.json else render(result))


if __name__ == "__main__":
    main()
