"""The section "Contamination" of docs/RESULTS.md, from what was measured."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HEADING = "## Contamination"
TITLES = {
    "humaneval": "HumanEval",
    "functions": "held-back functions of packages",
    "gsm8k": "GSM8K test",
    "other_language": "other language (C, JavaScript)",
}
ORDERS = ("finf, q-values alone", "finf, control_z × mirror_ratio")
CURVES = (
    "1,200 functions and what is planted; one thing changed at a time. F1 depends on how many of the queries leaked."
)
SAMPLE = "The rows planted for these queries and 150 others; `finf` looks at the same. Too few controls for verdicts."
NUMBERS = "AUC · F1 at a false discovery rate of 5 % · oracle F1."

Grade = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, Grade]]


def render_section(result: Mapping[str, Any], introduction: str) -> str:
    """All tables of one main run, its curves and ingredients where these were run."""
    parts = [HEADING, "", introduction, ""]
    parts += ["### F1 by kind of leak, all benchmarks together", "", *headline_table(result), ""]
    parts += ["### False ones among those called leaked", "", *clean_table(result["clean_called"]), ""]
    for benchmark in ("humaneval", "functions", "gsm8k"):
        cells = {method: found[benchmark] for method, found in result["cells"].items() if benchmark in found}
        if cells:
            parts += [f"### {TITLES[benchmark]}", "", *cell_table(cells), ""]
    if "sampled" in result:
        parts += ["### With methods that are too slow for the whole corpus, on a sample", "", SAMPLE, ""]
        for benchmark in ("humaneval", "functions", "gsm8k"):
            cells = {method: found[benchmark] for method, found in result["sampled"].items() if benchmark in found}
            parts += [f"{TITLES[benchmark]}:", "", *cell_table(cells, with_verdict=False), ""]
    if "ingredients" in result:
        parts += ["### What a verdict could rest on", "", NUMBERS, "", *ingredient_table(result["ingredients"]), ""]
    if "curves" in result:
        parts += ["### Curves", "", CURVES + " " + NUMBERS, "", *curve_table(result["curves"]), ""]
        for name, point in result["curves"].items():
            if "ingredients" in point:
                parts += [
                    f"### What a verdict could rest on: {name}",
                    "",
                    NUMBERS,
                    "",
                    *ingredient_table(point["ingredients"]),
                    "",
                ]
    return "\n".join(parts)


def headline_table(result: Mapping[str, Any]) -> Iterator[str]:
    """F1 at a false discovery rate of 5 % / 1 %."""
    kinds = list(next(iter(result["f1"].values())))
    yield from _head(["method", *(TITLES.get(kind, kind) for kind in kinds)])
    for method, found in result["f1"].items():
        strict = result["f1_at_0.01"][method]
        yield _line([method, *(f"{found[kind]:.2f} / {strict[kind]:.2f}" for kind in kinds)])


def clean_table(called: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    yield from _head(["method", "at 5 %: called", "of them clean", "at 1 %: called", "of them clean"])
    for method, found in called.items():
        numbers = [found[rate][name] for rate in ("at_0.05", "at_0.01") for name in ("called", "clean")]
        yield _line([method, *map(str, numbers)])


def cell_table(cells: Mapping[str, Mapping[str, Grade]], with_verdict: bool = True) -> Iterator[str]:
    """A line for each kind and method; without what rests on controls where there are too few to call anything."""
    verdict = ["precision", "recall", "F1", "F1 at 1 %"] if with_verdict else []
    yield from _head(["leak", "method", *verdict, "oracle F1", "AUC", "recall@1", "recall@5"])
    for kind in next(iter(cells.values())):
        for method, found in cells.items():
            yield _line([_kind(kind, found[kind]), method, *_numbers(found[kind], with_verdict)])


def ingredient_table(found: Mapping[str, Cells]) -> Iterator[str]:
    """Statistic by benchmark and kind: AUC · F1 at 5 % · oracle F1."""
    columns = _columns(next(iter(found.values())))
    yield from _head(["statistic", *_titles(columns)])
    for name, cells in found.items():
        yield _line([name, *(_three_numbers(cells[benchmark][kind]) for benchmark, kind in columns)])


def curve_table(curves: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The same at each point of the curves, for two orders of finf's rows."""
    columns = _columns(next(iter(curves.values()))["cells"][ORDERS[0]])
    yield from _head(["setting", "parameters", "nats per token", "verdict by", *_titles(columns)])
    for name, point in curves.items():
        for order in ORDERS:
            numbers = (_three_numbers(point["cells"][order][benchmark][kind]) for benchmark, kind in columns)
            size, nats = f"{point['num_parameters'] / 1e6:.2f} M", f"{point['last_epoch_nats']:.2f}"
            yield _line([name, size, nats, order, *numbers])


def _columns(cells: Cells) -> list[tuple[str, str]]:
    return [(benchmark, kind) for benchmark, kinds in cells.items() for kind in kinds]


def _titles(columns: list[tuple[str, str]]) -> list[str]:
    return [f"{TITLES[benchmark]}: {TITLES.get(kind, kind)}" for benchmark, kind in columns]


def _three_numbers(grade: Grade) -> str:
    return f"{grade['auc']:.2f} · {grade['at_0.05']['f1']:.2f} · {grade['oracle_f1']:.2f}"


def _kind(kind: str, grade: Grade) -> str:
    return f"{TITLES.get(kind, kind)} ({grade['num_leaked']} leaked, {grade['num_clean']} clean)"


def _numbers(grade: Grade, with_verdict: bool) -> Iterable[str]:
    at, strict = grade["at_0.05"], grade["at_0.01"]
    values = [at["precision"], at["recall"], at["f1"], strict["f1"]] if with_verdict else []
    values += [grade[name] for name in ("oracle_f1", "auc", "recall_at_1", "recall_at_5")]
    return ["" if value is None else f"{value:.2f}" for value in values]


def _head(columns: list[str]) -> Iterator[str]:
    yield _line(columns)
    yield _line(["---"] * len(columns))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
