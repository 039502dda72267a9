"""One run of `benchmarks.peers`: one tool, one of its settings, in a process of its own.

python -m benchmarks.peer_run TOOL VARIANT --folder FOLDER --into FILE [--rows N] [--queries N]
"""

import argparse
import importlib
import json
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer_inputs import ToolScores, best_order, load_inputs, orders_of_peer, recalls
from benchmarks.peer_settings import settings_of
from finf_core.errors import InputError


def measure(tool: str, variant: str, config: Path, num_rows: int | None, num_queries: int | None) -> dict[str, Any]:
    """Time, memory and recall of the tool on the demo that `config` describes."""
    torch.set_num_threads(1)
    settings = settings_of(tool, variant)
    inputs = load_inputs(config, num_rows, num_queries)
    try:
        module = importlib.import_module(f"benchmarks.peer_{tool}")
    except ImportError as error:
        raise InputError(f"{tool} is not installed ({error}); see the bench extra") from error
    loaded_bytes = _peak_bytes()
    found: ToolScores = getattr(module, f"run_{tool}")(inputs, settings)
    orders = found.orders or orders_of_peer(found.score_RQ, inputs.num_targets_R)
    recall = {name: recalls(order_RQ, inputs) for name, order_RQ in orders.items()}
    return {
        "tool": tool,
        "variant": variant,
        "settings": asdict(settings),
        "num_rows": len(inputs.row_windows),
        "num_queries": len(inputs.query_windows),
        "fit_seconds": found.fit.seconds,
        "score_seconds": found.score.seconds,
        "total_seconds": found.fit.seconds + found.score.seconds,
        "fit_cpu_seconds": found.fit.cpu_seconds,
        "score_cpu_seconds": found.score.cpu_seconds,
        "total_cpu_seconds": found.fit.cpu_seconds + found.score.cpu_seconds,
        "peak_bytes": _peak_bytes(),
        "loaded_bytes": loaded_bytes,  # before it began: the model, the texts and the tool's own imports
        "recall": recall,
        "best_order": best_order(recall),
    }


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool")
    parser.add_argument("variant")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int)
    asked = parser.parse_args()
    found = measure(asked.tool, asked.variant, asked.folder / "scan.toml", asked.rows, asked.queries)
    partial = asked.into.with_suffix(".part")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.rename(asked.into)


if __name__ == "__main__":
    main()
