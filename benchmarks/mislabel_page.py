"""The section "Wrong labels" of docs/RESULTS.md, from what `benchmarks.mislabel` measured."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finf_core.metrics import seed_interval

HEADING = "## Wrong labels"
NOISE = {"uniform": "uniform", "pairs": "pairs that look alike"}
INTRODUCTION = Path(__file__).with_name("mislabel_introduction.md")

Cell = Mapping[str, Any]


def render_section(result: Mapping[str, Any]) -> str:
    cells: Sequence[Cell] = result["cells"]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(cell["seed"] for cell in cells))
    parts = [HEADING, "", INTRODUCTION.read_text(encoding="utf-8").format(**{**result, "seeds": seeds})]
    for training in dict.fromkeys(cell["training"] for cell in cells):
        for noise in dict.fromkeys(cell["noise"] for cell in cells):
            chosen = [cell for cell in cells if (cell["training"], cell["noise"]) == (training, noise)]
            if chosen:
                parts += [f"### {training} training, {NOISE[noise]}", "", *_table(chosen), ""]
    return "\n".join(parts)


def _table(cells: Sequence[Cell]) -> Iterator[str]:
    rates = sorted({cell["rate"] for cell in cells})
    of_rate = [[cell for cell in cells if cell["rate"] == rate] for rate in rates]
    yield "| method | " + " | ".join(map(_head, of_rate)) + " |"
    yield "|---" * (len(rates) + 1) + "|"
    methods = list(cells[0]["methods"])
    columns = [_column(each, methods) for each in of_rate]
    for index, method in enumerate(methods):
        yield f"| {method} | " + " | ".join(column[index] for column in columns) + " |"
    for name, title in (
        ("accuracy_on_clean_rows", "*accuracy on clean rows*"),
        ("accuracy_on_wrong_labels", "*wrong labels learned*"),
    ):
        means = [seed_interval([cell[name] for cell in each]).mean for each in of_rate]
        yield f"| {title} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |"


def _head(cells: Sequence[Cell]) -> str:
    return f"{cells[0]['rate']:.0%} wrong ({len(cells)} seed{'' if len(cells) == 1 else 's'})"


def _column(cells: Sequence[Cell], methods: Sequence[str]) -> list[str]:
    numbers = [[_of(cells, method, measure) for method in methods] for measure in ("auc", "precision")]
    best = [sorted((mean for mean, _ in each), reverse=True)[1] for each in numbers]
    return [
        " · ".join(
            _bold(f"{mean:.2f}", mean >= least) + spread
            for (mean, spread), least in zip((each[index] for each in numbers), best, strict=True)
        )
        for index in range(len(methods))
    ]


def _of(cells: Sequence[Cell], method: str, measure: str) -> tuple[float, str]:
    interval = seed_interval([cell["methods"][method][measure] for cell in cells])
    return interval.mean, "" if interval.high is None else f" ± {interval.high - interval.mean:.2f}"


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text
