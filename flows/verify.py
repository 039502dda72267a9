"""`finf verify`: is the mirrored influence hypothesis true where retraining can tell?

The store remembers every refit and every training, so a run that was broken off goes on where it stopped.
"""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.progress_bar import ProgressBar
from flows.stage import Stages
from tasks.progress import Meter
from tasks.verification.images import FASHION_MNIST
from tasks.verification.presets import Settings, open_verification, preset_settings

MEASURES = ("pearson", "spearman")
PARTS = {  # of a result, beside the check itself
    "solved": "solved to the end, all rows",
    "points": "single rows, non-convex",
    "scores_against_left_out": "finf's scores against leaving out",
    "scores_against_added": "finf's scores against adding",
}


def run_verify(preset: str, store: str, seed: int | None = None, data: Path = FASHION_MNIST) -> dict[str, Any]:
    """Retrain without rows and with test images, and correlate the two.

    Args:
        preset: "convex" or "nonconvex" of the paper; "classifier", "diffusion" or "causal_lm": an adapter of ours.
        seed: None for the authors'.
        data: the folder with Fashion-MNIST, for the paper's.

    Returns:
        At least `preset`, `pearson`, `spearman`, their intervals, `sizes_and_seeds` and `seconds` (all computing, that
        of earlier runs included); `published` of the paper's; `scores_against_left_out` of an adapter.
    """
    return verify(preset_settings(preset, seed), store, data)


@flow(name="verify", validate_parameters=False)
def verify(settings: Settings, store: str, data: Path) -> dict[str, Any]:
    """The stages of a check of any size; each looks into the store for what is left to do."""
    stages = Stages()
    verification = open_verification(settings, store, data)
    with ProgressBar() as bar:
        for name, work in verification.check.stages(Meter(bar)):
            stages.always(name, work)
    return verification.publish()


def describe(result: dict[str, Any]) -> str:
    """The result for people, one line a figure."""
    lines = [f"{result['preset']}: {_with_interval(result, name)}{_published(result, name)}" for name in MEASURES]
    for part, text in PARTS.items():
        if part in result:
            lines.append(f"{text}: {', '.join(_with_interval(result[part], name) for name in MEASURES)}")
    return "\n".join([*lines, f"{result['seconds']:,.0f} s; {result['run']}"])


def _published(result: dict[str, Any], name: str) -> str:
    return f", published {result['published'][name]:.3f}" if "published" in result else ""


def _with_interval(found: dict[str, Any], name: str) -> str:
    low, high = found.get(f"{name}_interval", (None, None))
    return f"{name} {found[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
