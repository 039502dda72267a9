"""Does self-influence say what was memorised? Against many trainings with and without each row.

Handwritten digits (scikit-learn), one label in ten wrong, and some rows four times over with a little noise: these
doubles are one unit, all other rows are units of their own. Networks are trained on random halves of the units; what
was memorised of a unit is the share of networks that get its rows right when they saw them, less the share when not
(Feldman & Zhang 2020, arXiv:2008.03703). Networks of another seed, trained on everything, are what finf looks at.

Spearman over units; intervals: Student's t over seeds of data, wrong labels and networks.

python -m benchmarks.memorize [--seeds 0 1 2] [--networks N] [--runs FILE] [--page docs/RESULTS.md] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.pages import markdown_table, replace_section
from finf_core.classifier import Classifier, Labeled
from finf_core.curvature import fit_curvature
from finf_core.metrics import seed_interval, spearman
from finf_core.scores import Floats, Ints
from finf_core.self_influence import self_influence, self_moving
from finf_core.spec import WITHOUT_CURVATURE, UpdateSpec

NUM_SINGLE, NUM_DOUBLED, COPIES = 800, 50, 4
WRONG_SHARE, NOISE = 0.1, 0.05  # of the labels; of a copy's pixels (0 to 1), standard deviation
INPUTS, HIDDEN, CLASSES = 64, 32, 10
STEPS, LEARNING_RATE = 150, 0.02  # of Adam, each on all rows
AT_ONCE = 50  # networks that are trained side by side
NUM_FULL = 3  # networks trained on everything
KINDS = ("kfac", "ekfac", "diagonal", "sgd")
HEADING = "## Memorisation"
INTRODUCTION = Path(__file__).with_name("memorize_introduction.md")


@dataclass(frozen=True)
class Units:
    """Rows, and the unit that each belongs to: doubles share one."""

    features_NI: Tensor
    labels_N: Tensor
    unit_N: Ints
    is_wrong_U: Any

    @property
    def num_units(self) -> int:
        return len(self.is_wrong_U)


def make_units(seed: int) -> Units:
    """Doubled rows come last; wrong labels are spread over all units alike."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(labels))[: NUM_SINGLE + NUM_DOUBLED]
    is_wrong_U = draw.random(len(rows)) < WRONG_SHARE
    given_U = np.where(is_wrong_U, (labels[rows] + draw.integers(1, CLASSES, len(rows))) % CLASSES, labels[rows])
    copies_U = np.where(np.arange(len(rows)) < NUM_SINGLE, 1, COPIES)
    unit_N = np.repeat(np.arange(len(rows)), copies_U)
    pixels_NI = (
        images[rows][unit_N] / 16 + NOISE * draw.normal(size=(len(unit_N), INPUTS)) * (copies_U[unit_N] > 1)[:, None]
    )
    return Units(torch.from_numpy(pixels_NI).float(), torch.from_numpy(given_U[unit_N]), unit_N, is_wrong_U)


def train(units: Units, seen_MN: Tensor, seed: int) -> list[Tensor]:
    """M networks side by side, each on the rows that it sees: weights and biases of both layers, with M in front."""
    torch.manual_seed(seed)
    num = len(seen_MN)
    shapes = ((num, INPUTS, HIDDEN), (num, 1, HIDDEN), (num, HIDDEN, CLASSES), (num, 1, CLASSES))
    weights = [torch.randn(shape) * (shape[1] ** -0.5 if shape[1] > 1 else 0.0) for shape in shapes]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.Adam(weights, LEARNING_RATE)
    share_MN = seen_MN / seen_MN.sum(dim=1, keepdim=True)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (nats_MN(weights, units) * share_MN).sum().backward()
        optimizer.step()
    return [weight.detach() for weight in weights]


def logits_MNC(weights: Sequence[Tensor], units: Units) -> Tensor:
    first, first_bias, second, second_bias = weights
    features = units.features_NI.expand(len(first), *units.features_NI.shape)
    return torch.baddbmm(second_bias, torch.tanh(torch.baddbmm(first_bias, features, first)), second)


def nats_MN(weights: Sequence[Tensor], units: Units) -> Tensor:
    labels_MN = units.labels_N.expand(len(weights[0]), -1)
    return F.cross_entropy(logits_MNC(weights, units).transpose(1, 2), labels_MN, reduction="none")


def memorised(units: Units, num_networks: int, seed: int) -> tuple[Floats, Floats]:
    """(U,) share right when seen less share right when not: by all networks, and by their halves (2, U)."""
    draw = np.random.default_rng(1000 + seed)
    right, seen = [], []
    for start in range(0, num_networks, AT_ONCE):
        seen_MU = np.stack([draw.permutation(units.num_units) < units.num_units // 2 for _ in range(AT_ONCE)])
        weights = train(units, torch.from_numpy(seen_MU[:, units.unit_N]).float(), 10_000 * (seed + 1) + start)
        is_right_MN = (logits_MNC(weights, units).argmax(-1) == units.labels_N).double().numpy()
        right.append(np.stack([_by_unit(each_N, units) for each_N in is_right_MN]))
        seen.append(seen_MU)
    right_MU, seen_MU = np.concatenate(right), np.concatenate(seen)

    def estimate(some: slice) -> Floats:
        is_seen_MU, chance_MU = seen_MU[some], right_MU[some]
        with_it = (chance_MU * is_seen_MU).sum(0) / is_seen_MU.sum(0)
        found: Floats = with_it - (chance_MU * ~is_seen_MU).sum(0) / (~is_seen_MU).sum(0)
        return found

    return estimate(slice(None)), np.stack([estimate(slice(0, None, 2)), estimate(slice(1, None, 2))])


def _by_unit(value_N: Floats, units: Units, join: Callable[[Floats], float] = np.mean) -> Floats:
    """(U,), one value for the rows of each unit."""
    parts = np.split(value_N, np.flatnonzero(np.diff(units.unit_N)) + 1)
    return np.array([join(part) for part in parts])


def network(weights: Sequence[Tensor], number: int) -> nn.Module:
    """One of the networks side by side, as a module."""
    first, first_bias, second, second_bias = (weight[number] for weight in weights)
    built = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    state = {"0.weight": first.T, "0.bias": first_bias[0], "2.weight": second.T, "2.bias": second_bias[0]}
    built.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()})
    return built


def scores(units: Units, seed: int) -> dict[str, list[Floats]]:
    """Method -> (U,) of each network that was trained on everything."""
    weights = train(units, torch.ones(NUM_FULL, len(units.unit_N)), 77 + seed)
    found: dict[str, list[Floats]] = {}
    for number in range(NUM_FULL):
        for name, score_U in _of_network(Classifier(network(weights, number)), units):
            found.setdefault(name, []).append(score_U)
    return found


def _of_network(adapter: Classifier, units: Units) -> Iterator[tuple[str, Floats]]:
    pairs = zip(units.features_NI, units.labels_N.tolist(), strict=True)
    rows = [[Labeled(features_I, label)] for features_I, label in pairs]
    members = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(units.unit_N)) + 1)
    for kind in KINDS:
        spec = UpdateSpec(kind=kind)  # type: ignore[arg-type]
        curvature = None if kind in WITHOUT_CURVATURE else fit_curvature(adapter, rows, spec, 1024)
        moving = self_moving(adapter, "all", curvature)
        together = [self_influence(adapter, [rows[row] for row in some], moving, curvature) for some in members]
        yield f"self-influence, {kind}", np.array([each.influence for each in together])
        if kind == "kfac":
            alone_N = np.array([self_influence(adapter, [row], moving, curvature).influence for row in rows])
            yield f"self-influence, {kind}, largest row alone", _by_unit(alone_N, units, np.max)
        if kind == "sgd":
            yield (
                "norm of the unit's mean gradient",
                np.array([each.gradient_norm / each.num_targets for each in together]),
            )
            yield "loss", np.array([each.nats / each.num_targets for each in together])


def measure(seed: int, num_networks: int) -> dict[str, Any]:
    """Spearman of every method with what was memorised: over all units, over doubles, over units with right labels."""
    started, units = time.monotonic(), make_units(seed)
    truth_U, halves_2U = memorised(units, num_networks, seed)
    trained = time.monotonic() - started
    is_doubled_U = np.arange(units.num_units) >= NUM_SINGLE
    subsets = {"all units": is_doubled_U | ~is_doubled_U, "doubles": is_doubled_U, "right labels": ~units.is_wrong_U}
    methods: dict[str, Any] = {}
    for name, of_network in scores(units, seed).items():
        each = {
            part: np.mean([_rank(score_U[some], truth_U[some]) for score_U in of_network])
            for part, some in subsets.items()
        }
        mean_U = np.mean([score_U / np.median(score_U) for score_U in of_network], axis=0)
        methods[name] = {part: float(value) for part, value in each.items()}
        methods[name]["mean of networks"] = _rank(mean_U, truth_U)
    reliability = {part: _ceiling(_rank(*halves_2U[:, some])) for part, some in subsets.items()}
    return {
        "seed": seed,
        "num_networks": num_networks,
        "methods": methods,
        "noise_ceiling": reliability,
        "memorised_mean": {part: float(truth_U[some].mean()) for part, some in subsets.items()},
        "memorised_wrong_labels": float(truth_U[units.is_wrong_U].mean()),
        "seconds": {"networks": trained, "all": time.monotonic() - started},
    }


def measure_all(seeds: Sequence[int], num_networks: int, kept: Path | None) -> list[dict[str, Any]]:
    """Every seed; those that a file holds are not measured again."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    known = {(run["seed"], run["num_networks"]): run for run in map(json.loads, lines)}
    runs = []
    for seed in seeds:
        run = known.get((seed, num_networks)) or measure(seed, num_networks)
        runs.append(run)
        if kept is not None and (seed, num_networks) not in known:
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
    return runs


def _rank(first: Floats, second: Floats) -> float:
    return float(spearman(first[:, None], second[:, None])[0])


def _ceiling(half: float) -> float:
    """What knowing the expected value would reach: √ of the reliability of all networks (Spearman–Brown)."""
    return float(np.sqrt(max(0.0, 2 * half / (1 + half))))


def render_section(result: Mapping[str, Any]) -> str:
    runs, parts = result["runs"], ("all units", "right labels", "doubles", "mean of networks")
    text = INTRODUCTION.read_text(encoding="utf-8").format(
        seeds=", ".join(str(run["seed"]) for run in runs),
        wrong=np.mean([run["memorised_wrong_labels"] for run in runs]),
        right=np.mean([run["memorised_mean"]["right labels"] for run in runs]),
        **{key: result[key] for key in ("date", "num_networks")},
    )
    rows = [
        [name, *(_cell([run["methods"][name][part] for run in runs]) for part in parts)] for name in runs[0]["methods"]
    ]
    ceiling = [_cell([run["noise_ceiling"][part] for run in runs]) for part in parts[:3]]
    table = markdown_table(["Spearman", *parts], [*rows, ["*noise ceiling of the truth*", *ceiling, ""]])
    return "\n".join([HEADING, "", text, *table, ""])


def _cell(values: Sequence[float]) -> str:
    interval = seed_interval(values)
    return f"{interval.mean:.2f}" + ("" if interval.high is None else f" ± {interval.high - interval.mean:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", type=int, default=200, help="trained on random halves")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, help="keep what was measured here, a line a seed; measure what is missing")
    parser.add_argument("--page", type=Path, help="put the table into this page")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = measure_all(arguments.seeds, arguments.networks, arguments.runs)
    result = {"date": date.today().isoformat(), "num_networks": arguments.networks, "runs": runs}
    if arguments.page:
        page = replace_section(arguments.page.read_text(encoding="utf-8"), render_section(result))
        arguments.page.write_text(page, encoding="utf-8")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
