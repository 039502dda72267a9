"""The section "Facts" of docs/RESULTS.md, from what was measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEADING = "## Facts: which sentences taught them"
INTRODUCTION = Path(__file__).with_name("introduction.md")
ORDERS = ("score", "row_ratio", "control_z", "over the row's gradient")


def render_section(found: Mapping[str, Any], day: str) -> str:
    facts = {**found, **found["training"], **found["knowledge"], "date": day}
    introduction = INTRODUCTION.read_text(encoding="utf-8").format(**facts, chosen_recipe=" · ".join(found["chosen"]))
    parts = [HEADING, "", introduction, ""]
    parts += ["### Measured", "", *_result_table(found["results"]), ""]
    parts += ["### Recipes, on the part for choosing: MRR", "", *_recipe_table(found["recipes"]), ""]
    return "\n".join(parts)


def replace_section(page: str, section: str) -> str:
    """The page with this section in place of the one of the same heading, or at its end."""
    before, heading, rest = page.partition(HEADING + "\n")
    following = rest.find("\n## ")
    after = rest[following + 1 :] if heading and following >= 0 else ""
    return before.rstrip("\n") + "\n\n" + section.rstrip("\n") + "\n" + ("\n" + after if after else "")


def _result_table(results: Mapping[str, Any]) -> Iterator[str]:
    yield from _head(["method", "MRR", "recall@1", "recall@10", "MRR, minus that of BM25 on the same words"])
    for method, grades in sorted(results.items(), key=lambda item: -item[1]["mrr"]["mean"]):
        measures = [_text(grades[name]) for name in ("mrr", "recall_at_1", "recall_at_10")]
        over = _text(grades["mrr_over_bm25"], signed=True) if "mrr_over_bm25" in grades else ""
        yield _line([method, *measures, over])


def _recipe_table(recipes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield from _head(["recipe", *ORDERS])
    for recipe, mrr in recipes.items():
        yield _line([recipe, *(f"{mrr[order]:.3f}" for order in ORDERS)])


def _text(of: Mapping[str, float], signed: bool = False) -> str:
    numbers = [f"{of[name]:+.2f}" if signed else f"{of[name]:.2f}" for name in ("mean", "low", "high")]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
