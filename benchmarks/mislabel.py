"""Which training labels are wrong? finf's harm and outlier views beside loss, confident learning and gradients.

A small network is trained on Fashion-MNIST with wrong labels (uniform: any other class; pairs: the class that looks
alike). Two trainings: short, which does not learn the wrong labels by heart, and long, which does. Every method ranks
all training rows; a clean validation group of 500 is what finf and the gradient are given, and nobody else.

AUC: chance that a wrong label ranks above a right one. precision@n: share of wrong ones among the first n, n of which
are wrong in all. Intervals: Student's t over seeds.

python -m benchmarks.mislabel [--seeds 0 1 2] [--rows N] [--cells FILE] [--page docs/RESULTS.md] [--json]
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab.rank import get_label_quality_scores
from torch import nn
from torch.func import functional_call, jvp

from benchmarks.mislabel_page import render_section
from benchmarks.noisy_images import (
    SETTINGS,
    NoisyImages,
    by_class,
    labelled,
    noisy_images,
    probabilities_NC,
    train_network,
)
from benchmarks.pages import replace_section
from finf_core.classifier import Classifier, Labeled
from finf_core.curvature import Curvature, fit_curvature
from finf_core.metrics import auc
from finf_core.outliers import Outliers
from finf_core.scores import Floats, harm, influence_score, pull, row_ratio
from finf_core.scoring import score_rows
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update
from tasks.verification.cnn import TrainSettings, pixels
from tasks.verification.images import Images

NUM_CLEAN = 500
NUM_SINGLES = 25  # clean rows that are asked about one by one: each costs a pass
NUM_FOLDS = 5
BATCH_ROWS = 256
RATES = {"short": (0.1, 0.2, 0.3, 0.4), "long": (0.2, 0.4)}
SHORT = replace(SETTINGS, filters=(8, 16), hidden=48, learning_rate=0.03)
TRAININGS = {"short": SHORT, "long": replace(SHORT, epochs=40, learning_rate=0.06)}
CURVATURE_ROWS = 512
KFAC = UpdateSpec(kind="kfac", curvature_rows=CURVATURE_ROWS)
EKFAC = UpdateSpec(kind="ekfac", curvature_rows=CURVATURE_ROWS)
BY_CLASS = {  # one query for each class of the clean rows
    "finf harm, kfac": KFAC,
    "finf harm, ekfac": EKFAC,
    "finf harm, sgd": UpdateSpec(kind="sgd"),
}
AS_ONE = {  # all clean rows as one query
    "finf harm, kfac, one group": KFAC,
    "finf harm, released recipe (adam, 5e-3), one group": UpdateSpec(kind="adam", learning_rate=5e-3),
}


@dataclass(frozen=True)
class Trained:
    """A network, what it was trained on, and how."""

    data: NoisyImages
    model: nn.Module
    settings: TrainSettings
    seed: int


def measure(training: str, kind: Any, rate: float, seed: int, num_rows: int) -> dict[str, Any]:
    """Every method on one network."""
    data = noisy_images(num_rows, NUM_CLEAN, kind, rate, seed)
    settings = TRAININGS[training]
    trained = Trained(data, train_network(data.train, settings, seed), settings, seed)
    found, seconds = {}, {}
    started = time.monotonic()
    for name, score_N in suspicions(trained):
        found[name] = {"auc": auc(score_N, data.is_wrong_N), "precision": precision(score_N, data.is_wrong_N)}
        seconds[name], started = round(time.monotonic() - started, 2), time.monotonic()
    given, clean = (probabilities_NC(trained.model, images).argmax(1) for images in (data.train, data.clean))
    return {
        "training": training,
        "noise": kind,
        "rate": rate,
        "seed": seed,
        "num_rows": num_rows,
        "accuracy_on_given_labels": float((given == data.train.labels_N).mean()),
        "accuracy_on_wrong_labels": float((given == data.train.labels_N)[data.is_wrong_N].mean()),
        "accuracy_on_clean_rows": float((clean == data.clean.labels_N).mean()),
        "methods": found,
        "seconds": seconds,
    }


def precision(score_N: Floats, is_wrong_N: Any) -> float:
    """Share of wrong labels among as many of the first rows as there are wrong ones."""
    return float(is_wrong_N[np.argsort(-score_N, kind="stable")[: is_wrong_N.sum()]].mean())


def suspicions(trained: Trained) -> Iterator[tuple[str, Floats]]:
    """Method -> (N,), larger for a row that is more likely to be wrong."""
    data = trained.data
    adapter, rows = Classifier(trained.model), [[row] for row in labelled(data.train)]
    clean = labelled(data.clean)
    fitted = {spec: fit_curvature(adapter, rows[:CURVATURE_ROWS], spec, BATCH_ROWS) for spec in (KFAC, EKFAC)}
    for name, spec in BY_CLASS.items():
        harm_N, ratio_NQ = finf_harm(adapter, rows, by_class(clean), spec, fitted.get(spec))
        yield name, harm_N
        if spec is KFAC:
            yield "finf outliers, by class", Outliers(ratio_NQ, 0).score(ratio_NQ)
            yield "finf harm to the class that is hurt most", (-ratio_NQ).max(axis=1)
    for name, spec in AS_ONE.items():
        yield name, finf_harm(adapter, rows, [clean], spec, fitted.get(spec))[0]
    singles = [[row] for row in clean[:NUM_SINGLES]]
    ratio_NQ = finf_harm(adapter, rows, singles, KFAC, fitted[KFAC])[1]
    yield f"finf harm, kfac, {NUM_SINGLES} single rows, mean", -ratio_NQ.mean(axis=1)
    yield f"finf outliers, {NUM_SINGLES} single rows", Outliers(ratio_NQ, 0).score(ratio_NQ)
    yield "gradient dot product", -gradient_dots(trained.model, data.train, data.clean)
    labels_N, own_NC = data.train.labels_N, probabilities_NC(trained.model, data.train)
    yield "loss (cleanlab's self-confidence), same model", -np.log(own_NC[np.arange(len(labels_N)), labels_N])
    yield "cleanlab, same model (adjusted margin)", adjusted_margin(labels_N, own_NC)
    crossed_NC = cross_validated_NC(trained)
    yield "cleanlab, cross-validated (self-confidence)", -np.log(crossed_NC[np.arange(len(labels_N)), labels_N])
    yield "cleanlab, cross-validated (adjusted margin)", adjusted_margin(labels_N, crossed_NC)


def finf_harm(
    adapter: Classifier,
    rows: Sequence[Sequence[Labeled]],
    queries: Sequence[Sequence[Labeled]],
    spec: UpdateSpec,
    curvature: Curvature | None,
) -> tuple[Floats, Floats]:
    """As `finf mislabel` takes it, (N,), and the rows' ratios, (N, Q)."""
    updates = [mirrored_update(adapter, query, spec, curvature) for query in queries]
    losses = score_rows(adapter, rows, updates, BATCH_ROWS)
    score_NQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, spec.direction)
    moved_Q = np.array([update.moved_nats for update in updates])
    num_targets_Q = np.array([update.num_targets for update in updates], dtype=np.float64)
    ratio_NQ = row_ratio(score_NQ, losses.num_targets_R, moved_Q)
    return harm(ratio_NQ, pull(num_targets_Q, moved_Q, np.array([update.step_size for update in updates]))), ratio_NQ


def gradient_dots(model: nn.Module, rows: Images, clean: Images) -> Floats:
    """∇l(row) · ∇l(clean rows), (N,): a derivative along the one gradient, no row's gradient is taken."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def nats(weights: dict[str, torch.Tensor], images: Images) -> torch.Tensor:
        logits = functional_call(model, weights, (pixels(images),))
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(images.labels_N), reduction="none")

    gradient = torch.func.grad(lambda weights: nats(weights, clean).sum())(parameters)
    _, dots = jvp(lambda weights: nats(weights, rows), (parameters,), (gradient,))
    found: Floats = dots.detach().double().numpy()
    return found


def cross_validated_NC(trained: Trained) -> Floats:
    """Each row's class probabilities by a network that was trained the same way without it."""
    images = trained.data.train
    found = np.zeros((len(images.labels_N), 10))
    fold_N = np.arange(len(images.labels_N)) % NUM_FOLDS  # rows are in random order
    for fold in range(NUM_FOLDS):
        model = train_network(images.take(np.flatnonzero(fold_N != fold)), trained.settings, trained.seed)
        held = np.flatnonzero(fold_N == fold)
        found[held] = probabilities_NC(model, images.take(held))
    return found


def adjusted_margin(labels_N: Any, probability_NC: Floats) -> Floats:
    """Confident learning: the margin of the given label, less the mean confidence of each class."""
    return -get_label_quality_scores(labels_N, probability_NC, method="normalized_margin", adjust_pred_probs=True)


def measure_all(seeds: Sequence[int], num_rows: int, trainings: Sequence[str], kept: Path | None) -> dict[str, Any]:
    """Every cell, seed by seed; those that a file holds are not measured again."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    known = {_key(cell): cell for cell in map(json.loads, lines)}
    cells = [] if trainings else list(known.values())
    for seed, training, kind in itertools.product(seeds, trainings, ("uniform", "pairs")):
        for rate in RATES[training]:
            cell = known.get((training, kind, rate, seed, num_rows))
            if cell is None:
                cell = measure(training, kind, rate, seed, num_rows)
                print(json.dumps(cell), flush=True)
                if kept is not None:
                    with kept.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(cell) + "\n")
            cells.append(cell)
    return {"date": date.today().isoformat(), "num_rows": num_rows, "num_clean": NUM_CLEAN, "cells": cells}


def _key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("training", "noise", "rate", "seed", "num_rows"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--trainings", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=Path, help="keep what was measured here, a line each; measure what is missing")
    parser.add_argument("--known", action="store_true", help="measure nothing: only what --cells holds")
    parser.add_argument("--page", type=Path, help="put the tables into this page")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trainings = () if arguments.known else arguments.trainings
    result = measure_all(arguments.seeds, arguments.rows, trainings, arguments.cells)
    if arguments.page:
        arguments.page.write_text(
            replace_section(arguments.page.read_text(encoding="utf-8"), render_section(result)), encoding="utf-8"
        )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
