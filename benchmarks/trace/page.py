"""The section "Facts" of docs/RESULTS.md, from what was measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import markdown_table

HEADING = "## Facts: which sentences taught them"
INTRODUCTION = Path(__file__).with_name("introduction.md")
ORDERS = ("score", "row_ratio", "control_z", "over the row's gradient")


def render_section(found: Mapping[str, Any], day: str) -> str:
    facts = {
        **found,
        **found["training"],
        **found["knowledge"],
        "date": day,
        "chosen_recipe": ", ".join(found["chosen"]),
    }
    introduction = INTRODUCTION.read_text(encoding="utf-8").format(**facts).rstrip()
    parts = [HEADING, "", introduction, ""]
    parts += ["### Measured", "", *_result_table(found["results"]), ""]
    parts += ["### Recipes, on the part for choosing: MRR", "", *_recipe_table(found["recipes"]), ""]
    return "\n".join(parts)


def _result_table(results: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for method, grades in sorted(results.items(), key=lambda item: -item[1]["mrr"]["mean"]):
        measures = [_text(grades[name]) for name in ("mrr", "recall_at_1", "recall_at_10")]
        over = _text(grades["mrr_over_bm25"], "+") if "mrr_over_bm25" in grades else ""
        rows.append([method, *measures, over])
    return markdown_table(["method", "MRR", "recall@1", "recall@10", "MRR, minus that of BM25 on the same words"], rows)


def _recipe_table(recipes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    rows = [[recipe, *(f"{mrr[order]:.3f}" for order in ORDERS)] for recipe, mrr in recipes.items()]
    return markdown_table(["recipe", *ORDERS], rows)


def _text(of: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (f"{of[name]:{sign}.2f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
