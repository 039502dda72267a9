"""Which training images did a generated image come from? Our scores against retraining, and on planted exemplars.

A small denoiser is trained on 500 images of Fashion-MNIST (14 × 14), images are generated from it, and each method
scores every training image for each of them. Truth is made by training again, with the same start and noise:

`lds`        on random halves of the images: how well summed scores order the generated images' losses (1 is perfect)
`removal`    without a method's best 5 % of the images for a query, against without as many random ones: by how many
             per cent the query's loss rises, over queries; each query's rise is the mean over seeds
`planted`    some images carry a mark: share of those with the mark of a query among the 6 (20) best, of 6

Losses of the truth are taken at timesteps and with noise that the methods did not see. Networks stay in the folder.

python -m benchmarks.diffusion [--folder F] [--page docs/RESULTS.md] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.denoisers import ResidualDenoiser, fashion, generate, trained, unet
from benchmarks.diffusion_methods import METHODS, Scored, score_with
from benchmarks.diffusion_planted import Planted, plant, recall
from benchmarks.diffusion_tables import as_markdown
from benchmarks.diffusion_truth import Retraining, random_halves
from benchmarks.pages import replace_section
from finf_core.fingerprint import fingerprint
from finf_core.metrics import lds, seed_interval
from finf_core.scores import Floats

REMOVED = (
    "pixel distance (L2)",
    "plain ascent (sgd)",
    "diagonal Fisher",
    "kfac",
    "kfac, normalised",
)
ON_RESIDUAL = tuple(name for name in METHODS if name != "kfac, 64 timesteps")
ON_UNET = ("random", "pixel distance (L2)", "plain ascent (sgd)", "kfac")


@dataclass(frozen=True)
class Size:
    num_rows: int = 500
    num_steps: int = 1000
    num_queries: int = 16
    num_halves: int = 24
    num_removal_queries: int = 4
    num_removed: int = 25
    num_random_sets: int = 5
    num_seeds: int = 1
    num_marks: int = 4
    rows_per_mark: int = 6
    unet_steps: int = 400


def measure_once(folder: Path, size: Size) -> dict[str, Any]:
    """What was measured for this size before, or is now."""
    file = folder / f"{fingerprint(size)[:16]}.json"
    if not file.exists():
        found = json.dumps(measure(folder, size))
        file.write_text(found, encoding="utf-8")
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def measure(folder: Path, size: Size) -> dict[str, Any]:
    started = time.process_time()
    rows, others = fashion(size.num_rows, size.num_marks)
    everything_R = np.ones(size.num_rows, dtype=bool)
    retraining = Retraining(folder / "residual", ResidualDenoiser, rows, rows[:0], size.num_steps)
    network = retraining.network(everything_R, seed=0)
    queries = generate(network, size.num_queries, seed=5)
    retraining = Retraining(folder / "residual", ResidualDenoiser, rows, queries, size.num_steps)
    scored = {name: score_with(name, network, rows, queries) for name in METHODS}
    planted = plant(rows, others, size.num_marks, size.rows_per_mark)
    return {
        "size": vars(size),
        "parameters": {"residual": _count(ResidualDenoiser()), "unet": _count(unet())},
        "date": date.today().isoformat(),
        "seconds_to_score": {name: each.seconds for name, each in scored.items()},
        "lds": _lds(retraining, scored, size),
        "removal": _removal(retraining, scored, size),
        "planted": {
            "residual": _planted(folder / "planted", ResidualDenoiser, planted, size.num_steps, ON_RESIDUAL),
            "unet": _planted(folder / "planted-unet", unet, planted, size.unet_steps, ON_UNET),
        },
        "cpu_seconds": time.process_time() - started,
    }


def _lds(retraining: Retraining, scored: dict[str, Scored], size: Size) -> dict[str, Any]:
    halves_HR = random_halves(size.num_rows, size.num_halves)
    losses_HQ = np.stack([retraining.losses(half, seed=0) for half in halves_HR])
    halves_HK = np.stack([np.flatnonzero(half) for half in halves_HR])
    return {name: _interval(lds(each.scores_RQ, halves_HK, losses_HQ)) for name, each in scored.items()}


def _interval(values_Q: Floats) -> dict[str, float | None]:
    return seed_interval(values_Q.tolist())._asdict()


def _removal(retraining: Retraining, scored: dict[str, Scored], size: Size) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    sets = [rng.permutation(size.num_rows)[: size.num_removed].tolist() for _ in range(size.num_random_sets)]
    asked, seeds = range(size.num_removal_queries), range(size.num_seeds)
    random = {seed: np.stack([retraining.losses_without(places, seed) for places in sets]) for seed in seeds}
    usual = {seed: losses_SQ.mean(axis=0) for seed, losses_SQ in random.items()}

    def rise(places: list[int], query: int) -> Floats:
        """Per cent, of each seed."""
        return np.array(
            [100 * (retraining.losses_without(places, seed)[query] / usual[seed][query] - 1) for seed in seeds]
        )

    found = {}
    for name in REMOVED:
        best = np.argsort(-scored[name].scores_RQ, axis=0, kind="stable")[: size.num_removed]
        found[name] = _interval(np.array([rise(best[:, query].tolist(), query).mean() for query in asked]))
    spread = [losses_SQ.std(axis=0, ddof=1) / losses_SQ.mean(axis=0) for losses_SQ in random.values()]
    return {"rise_percent": found, "spread_of_random_sets_percent": 100 * float(np.mean(spread))}


def _planted(
    folder: Path, build: Callable[[], nn.Module], planted: Planted, num_steps: int, names: tuple[str, ...]
) -> dict[str, Any]:
    kept: Tensor = torch.ones(len(planted.rows), dtype=torch.bool)
    network = trained(folder / f"{num_steps}.safetensors", build, planted.rows, kept, num_steps, seed=0)
    found = {}
    for name in names:
        scored = score_with(name, network, planted.rows, planted.queries)
        at = {f"recall_at_{most}": recall(scored.scores_RQ, planted.places, most) for most in (6, 20)}
        found[name] = at | {"seconds": scored.seconds}
    return found


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs/diffusion"))
    parser.add_argument("--page", type=Path, help="replace the section in this file")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure_once(arguments.folder, Size())
    if arguments.page:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(replace_section(page, as_markdown(found)), encoding="utf-8")
    print(json.dumps(found) if arguments.json else as_markdown(found))


if __name__ == "__main__":
    main()
