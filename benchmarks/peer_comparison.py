"""Which settings stand for each tool, and how much faster finf is.

A tool's cheapest settings among those within one renamed query of its best recall@5 stand for it; cost is CPU seconds,
fit and scoring together. Beside that, the cheapest settings of any peer, whatever they find.
"""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.peer_settings import CHOSEN

OURS = "finf"

Run = dict[str, Any]  # as benchmarks.peer_run writes it; "error" in it where it came to no end


def merge_repeats(runs: Sequence[Run]) -> Iterator[Run]:
    """One entry for each variant: the median of its repeats' times, the largest of their peaks."""
    for tool, variant in dict.fromkeys((run["tool"], run["variant"]) for run in runs):
        repeats = [run for run in runs if (run["tool"], run["variant"]) == (tool, variant)]
        whole = [run for run in repeats if "error" not in run]
        if not whole:
            yield repeats[0]
            continue
        times = {name: median(run[name] for run in whole) for name in whole[0] if name.endswith("_seconds")}
        yield whole[0] | times | {"peak_bytes": max(run["peak_bytes"] for run in whole), "num_repeats": len(whole)}


def compare(runs: Sequence[Run], num_renamed: int) -> dict[str, Any]:
    """Each tool at its best, and how much faster finf is; ratios above 1 are finf's favour."""
    whole = [run for run in runs if "error" not in run]
    best = {tool: _best_of([run for run in whole if run["tool"] == tool], num_renamed) for tool in CHOSEN}
    tools = {tool: run for tool, run in best.items() if run is not None}
    found: dict[str, Any] = {"tools": tools, "runs": list(runs)}
    peers = [run for tool, run in tools.items() if tool != OURS]
    if OURS not in tools or not peers:
        return found
    ours = tools[OURS]
    fastest = min(peers, key=_cost)
    anyhow = min((run for run in whole if run["tool"] != OURS), key=_cost)
    return found | {
        "fastest_peer": fastest["tool"],
        "speedup_over_fastest_peer": fastest["total_seconds"] / ours["total_seconds"],
        "cpu_speedup_over_fastest_peer": _cost(fastest) / _cost(ours),
        "cpu_speedup_over": {run["tool"]: _cost(run) / _cost(ours) for run in peers},
        "score_cpu_speedup_over_fastest_peer": fastest["score_cpu_seconds"] / ours["score_cpu_seconds"],
        "recall_is_no_lower": _best_recall(ours) >= _best_recall(fastest),
        "recall_is_no_lower_than_any": all(_best_recall(ours) >= _best_recall(run) for run in peers),
        "fastest_settings_of_all": {"tool": anyhow["tool"], "variant": anyhow["variant"]},
        "cpu_speedup_over_fastest_settings": _cost(anyhow) / _cost(ours),
    }


def _cost(run: Run) -> float:
    seconds: float = run["total_cpu_seconds"]
    return seconds


def _best_recall(run: Run) -> tuple[float, float]:
    recall = run["recall"][run["best_order"]]
    return recall["renamed_at_5"], recall["verbatim_at_5"]


def _best_of(runs: Sequence[Run], num_renamed: int) -> Run | None:
    if not runs:
        return None
    enough = max(_best_recall(run)[0] for run in runs) - 1 / num_renamed - 1e-9
    return min((run for run in runs if _best_recall(run)[0] >= enough), key=_cost)
