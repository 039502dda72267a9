"""Every table of docs/RESULTS.md, made anew: `make results`.

Runs the presets of `finf evaluate` and `finf verify` (what their store holds already is not made again), then
variations of our own update on one of the problems, and writes the page. Sections of other benchmarks stay as they are:
`python -m benchmarks.contamination --page docs/RESULTS.md`, likewise `benchmarks.image_leakage` and so on.

python -m benchmarks.results [--only PRESET ...] [--store FOLDER] [--page FILE] [--json]
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.pages import kept_sections, replace_section
from finf_core.errors import InputError
from flows.environment import set_environment
from tasks.evaluation.spec import EvaluateSpec

PAGE = Path("docs/RESULTS.md")
INTRODUCTION = Path(__file__).with_name("results_introduction.md")
EVALUATED = {
    "digits-logreg": "Logistic regression on digits: truth by dattri",
    "digits-mlp": "A small network on digits: truth by dattri",
    "tiny-lm": "A tiny language model: subset retraining",
}
VERIFICATIONS = {
    "convex": "The hypothesis itself, convex: Fashion-MNIST, multinomial logistic regression",
    "nonconvex": "The hypothesis itself, not convex: Fashion-MNIST, a CNN",
    "classifier": "The hypothesis and our scores: a classifier of digits",
    "diffusion": "The hypothesis and our scores: a diffusion model of digits",
    "causal_lm": "The hypothesis and our scores: a language model of gospels",
}
SPOILT = {
    "classifier": "have another label",
    "diffusion": "lie on their side",
    "causal_lm": "have their tokens in another order",
}
VERIFIED = {  # parts of a verification's result
    "": "**leaving out against adding**",
    "extrapolated": "its solver's error carried over to all rows",
    "solved": "solved to the end, all rows",
    "given_share": "the same, what the spoilt share explains taken out",
    "scores_against_left_out": "**our scores against leaving out**",
    "scores_against_added": "our scores against adding",
    "points": "single rows (noise ceiling of the Spearman below)",
}
VARIATIONS: dict[str, dict[str, Any]] = {  # of UpdateSpec, on digits-mlp; one at a time
    "kfac, 0.1 nats, one step, forward": {},
    "moves 0.001 nats": {"move_nats": 0.001},
    "moves 0.3 nats": {"move_nats": 0.3},
    "moves 1 nat": {"move_nats": 1.0},
    "moves 0.3 nats, central differences": {"move_nats": 0.3, "difference": "central"},
    "derivative (jvp)": {"difference": "jvp"},
    "descent": {"direction": "descent"},
    "3 steps": {"steps": 3},
    "10 steps": {"steps": 10},
    "damping 0.01": {"damping": 0.01},
    "damping 0.03": {"damping": 0.03},
    "damping 0.3": {"damping": 0.3},
    "damping 10": {"damping": 10.0},
    "only the output layer": {"moves": "2.*"},
    "refined, 1 step": {"refine_steps": 1},
    "refined, 2 steps": {"refine_steps": 2},
    "refined, 4 steps": {"refine_steps": 4},
    "refined, 12 steps": {"refine_steps": 12},
    "labels of the data": {"curvature_labels": "data"},
}


def evaluate_section(preset: str, store: str) -> Iterator[str]:
    from flows.evaluate import run_evaluate
    from tasks.evaluation.table import render_table

    yield f"## {EVALUATED[preset]}\n\n`finf evaluate --preset {preset} --json`\n"
    yield render_table(run_evaluate(preset, store))


def verify_section(preset: str, store: str) -> Iterator[str]:
    from flows.verify import run_verify

    yield f"## {VERIFICATIONS[preset]}\n\n`finf verify --preset {preset} --json`\n"
    if preset in SPOILT:
        yield f"Half of the rows {SPOILT[preset]}; each group is a quarter of the rows, with none to all of these.\n"
    yield render_verification(run_verify(preset, store))


def render_verification(result: dict[str, Any]) -> str:
    """The published figures where there are any, ours, and whatever the check measures beside them."""
    lines = ["| | Pearson | Spearman |", "|---|---|---|"]
    if published := result.get("published"):
        lines.append(f"| published (Ko et al. 2024) | {published['pearson']:.3f} | {published['spearman']:.3f} |")
    if "pearson_given_share" in result:
        result |= {"given_share": {name: result[f"{name}_given_share"] for name in ("pearson", "spearman")}}
    for part, title in VERIFIED.items():
        found = result if part == "" else result.get(part)
        if found is not None:
            lines.append(f"| {title} | {_with_interval(found, 'pearson')} | {_with_interval(found, 'spearman')} |")
    if "points" in result:
        lines += ["", f"Noise ceiling of the single rows: {result['points']['spearman_noise_ceiling']:.2f}."]
    settings = f"Sizes and seeds: `{json.dumps(result['sizes_and_seeds'])}`"
    return "\n".join([*lines, "", f"{settings}; {result['seconds']:,.0f} s.", ""])


def _with_interval(found: dict[str, Any], name: str) -> str:
    low, high = found.get(f"{name}_interval", (None, None))
    return f"{found[name]:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def variations_section(store: str) -> Iterator[str]:
    """`kfac` on digits-mlp with one setting changed at a time."""
    from flows.evaluate import evaluate
    from tasks.evaluation.config import load_evaluation

    yield "## What helps and what does not\n"
    yield "`kfac` on digits-mlp, one setting changed at a time; same truth, same models.\n"
    yield "| setting | LDS | 95 % interval | models averaged |\n|---|---|---|---|"
    preset = load_evaluation("digits-mlp")
    if not isinstance(preset, EvaluateSpec):
        raise InputError("the preset digits-mlp is no evaluation of a problem")
    for name, changes in VARIATIONS.items():
        method = "kfac_refined" if "refine_steps" in changes else "kfac"
        try:
            found = evaluate(replace(preset, methods=(method,), update=replace(preset.update, **changes)), store)
        except InputError as error:  # a step that some query cannot take
            yield f"| {name} | refused: {str(error).split(': ')[-1]} | | |"
            continue
        low, high = found["lds_interval"][method]
        yield f"| {name} | {found['lds'][method]:.3f} | {low:.3f} to {high:.3f} | {found['lds_together'][method]:.3f} |"
    yield "\nRefused: a query that the model is sure of cannot be moved so far, or in so little damped a direction.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="finf-store")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*EVALUATED, *VERIFICATIONS], help="make these sections anew")
    arguments = parser.parse_args()
    set_environment()
    if arguments.only:
        page = arguments.page.read_text(encoding="utf-8")
        for preset in arguments.only:
            page = replace_section(page, "\n".join(_section(preset, arguments.store)))
    else:
        page = _whole_page(arguments.store, arguments.page)
    arguments.page.write_text(page, encoding="utf-8")
    if arguments.json:
        print(json.dumps({"page": str(arguments.page), "num_characters": len(page)}))


def _whole_page(store: str, path: Path) -> str:
    parts = [INTRODUCTION.read_text(encoding="utf-8").format(date=date.today().isoformat())]
    for preset in EVALUATED:
        parts += _section(preset, store)
    parts += variations_section(store)
    for preset in VERIFICATIONS:
        parts += _section(preset, store)
    if path.exists():
        parts.append(kept_sections(path.read_text(encoding="utf-8"), "\n".join(parts)))
    return "\n".join(parts)


def _section(preset: str, store: str) -> Iterator[str]:
    return evaluate_section(preset, store) if preset in EVALUATED else verify_section(preset, store)


if __name__ == "__main__":
    main()
