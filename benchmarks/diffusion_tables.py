"""The section of docs/RESULTS.md that `benchmarks.diffusion` makes."""

from collections.abc import Iterable, Mapping
from typing import Any


def as_markdown(found: Mapping[str, Any]) -> str:
    size, removal = found["size"], found["removal"]
    rises = removal["rise_percent"]
    methods = (
        [name, _with_interval(lds, 2), _with_interval(rises[name], 1) if name in rises else "", f"{seconds:.1f}"]
        for name, lds, seconds in ((name, lds, found["seconds_to_score"][name]) for name, lds in found["lds"].items())
    )
    planted = (
        [network, name, *(f"{each[key]:.2f}" for key in ("recall_at_6", "recall_at_20")), f"{each['seconds']:.1f}"]
        for network, by_name in found["planted"].items()
        for name, each in by_name.items()
    )
    first, last = (f"recall@{most} of {size['rows_per_mark']}" for most in (6, 20))
    return "\n\n".join(
        [
            f"Truth by retraining ({found['parameters']['residual']:,} parameters, {size['num_rows']:,} images). "
            f"LDS: {size['num_halves']} halves, {size['num_queries']} generated images. Removal: {size['num_removed']} "
            f"images, {size['num_removal_queries']} generated images, {size['num_seeds']} seeds, against "
            f"{size['num_random_sets']} random sets (their spread: {removal['spread_of_random_sets_percent']:.1f} %). "
            "Means with 95 % intervals over the generated images:",
            _table(["method", "LDS", "rise of the loss, %", "CPU seconds"], methods),
            f"Planted marks ({size['num_marks']} marks, {size['rows_per_mark']} images each; unet: "
            f"{found['parameters']['unet']:,} parameters):",
            _table(["network", "method", first, last, "CPU seconds"], planted),
            f"All of it: {found['cpu_seconds'] / 60:.0f} minutes of one core, less where networks were there already.",
        ]
    )


def _with_interval(value: Mapping[str, float], digits: int) -> str:
    mean, low, high = (f"{value[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
