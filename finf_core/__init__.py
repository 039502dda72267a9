"""finf as a library: losses, mirrored updates and scores, with torch, numpy and pyarrow alone.

from finf_core import CausalLM, UpdateSpec, mirrored_update, score_rows
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "CausalLM": "causal_lm",
    "Classifier": "classifier",
    "CleanImage": "diffusion",
    "Diffusion": "diffusion",
    "ExampleLoss": "losses",
    "Labeled": "classifier",
    "MirroredUpdate": "updates",
    "NoiseSchedule": "noise_schedule",
    "UpdateSpec": "spec",
    "Window": "windows",
    "curvature_from_tensors": "curvature",
    "fit_curvature": "curvature",
    "merge_top": "top_k",
    "mirrored_update": "updates",
    "per_example_loss": "losses",
    "rank_rows": "ranking",
    "score_rows": "scoring",
    "split_into_windows": "windows",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `finf --help` should not wait for torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"finf_core has no {name!r}")
    return getattr(import_module(f"finf_core.{_MODULE_OF[name]}"), name)
