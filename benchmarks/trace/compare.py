"""All methods on the same facts: recipes chosen on one part of them, everything measured on the other."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.trace.facts import Fact
from benchmarks.trace.gradients import Recipe, Rows, make_recipes, row_products
from benchmarks.trace.kept import kept
from benchmarks.trace.measure import fused_places, grade_places, places_in, places_of, rankings_of
from benchmarks.trace.prepare import Prepared
from benchmarks.trace.scans import CLOZE, SENTENCE, SHORT, STYLES, Style, fact_line, run_trace
from finf_core.lexical import LexicalIndex, QueryText, count_words
from finf_core.scores import Floats, Ints
from finf_core.template import fill_template
from tasks.checkpoint import load_language_model
from tasks.encode import encode_query, encode_rows
from tasks.evaluation.lexical_baselines import minilm_scores
from tasks.loaded_model import TextModel
from tasks.queries import Query

CURVATURE_ROWS = 2048
DOT, DEFAULT = "gradient", "kfac, damping 0.1"
SCANS: Mapping[str, tuple[Style, str]] = {  # what `finf trace` is asked for
    "finf, score": (CLOZE, "score"),
    "finf, score, the sentence's own words": (SENTENCE, "score"),
    "finf, row_ratio": (CLOZE, "row_ratio"),
}
SAID = {CLOZE.name: "", SHORT.name: ", short name", SENTENCE.name: ", the sentence's own words"}  # that differ in words
Tell = Callable[[str], None]


def compare(prepared: Prepared, with_minilm: bool, tell: Tell) -> dict[str, Any]:
    """Everything that the page shows."""
    started = time.monotonic()
    model = load_language_model(prepared.model)
    rows = encode_rows(model, prepared.model, prepared.texts)
    choosing = _first_order(prepared, model, rows, prepared.choosing, "choosing", None, tell)
    chosen = _choose(choosing, prepared.choosing, prepared)
    tell(f"chosen: {chosen}")
    results, seconds = _measure(prepared, model, rows, chosen, with_minilm, tell)
    return {
        "num_rows": len(prepared.texts),
        "num_tokens": sum(len(window) for row in rows for window in row),
        "num_choosing": len(prepared.choosing),
        "num_reported": len(prepared.reported),
        "training": prepared.training,
        "knowledge": prepared.knowledge,
        "styles": {style.name: style.means for style in STYLES},
        "recipes": {
            recipe: {order: _mrr(scores, prepared.choosing, prepared) for order, scores in of.items()}
            for recipe, of in choosing.items()
        },
        "chosen": list(chosen),
        "results": results,
        "seconds": seconds | {"all": time.monotonic() - started},
    }


def _measure(
    prepared: Prepared, model: TextModel, rows: Rows, chosen: tuple[str, str], with_minilm: bool, tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = prepared.reported
    true_row_Q = [prepared.row_of[fact.fact_id] for fact in facts]
    words = {style.name: _bm25(prepared, facts, style) for style in STYLES}
    bm25 = {name: rankings_of(scores) for name, scores in words.items()}
    against = {name: places_of(scores, true_row_Q) for name, scores in words.items()}
    found = {f"BM25{SAID[style]}": grade_places(against[style]) for style in SAID}
    without = _bm25(prepared, facts, CLOZE, with_target=False)
    found["BM25, without the answer"] = grade_places(places_of(without, true_row_Q), against[CLOZE.name])
    against_Q, of_words = against[CLOZE.name], bm25[CLOZE.name]
    first_order = _first_order(prepared, model, rows, facts, "reported", {DOT, DEFAULT, chosen[0]}, tell)
    named = {"gradient dot product": (DOT, "score"), "gradient cosine": (DOT, "over the row's gradient")}
    named |= {
        "finf to first order, every row, score": (DEFAULT, "score"),
        "finf to first order, every row, the chosen recipe": chosen,
    }
    for name, (recipe, order) in named.items():
        found[name] = grade_places(places_of(first_order[recipe][order], true_row_Q), against_Q)
        found[f"{name} + BM25"] = grade_places(
            fused_places(rankings_of(first_order[recipe][order]), of_words, true_row_Q), against_Q
        )
    if with_minilm:
        scores = _minilm(prepared, facts)
        found["MiniLM"] = grade_places(places_of(scores, true_row_Q), against_Q)
        found["MiniLM + BM25"] = grade_places(fused_places(rankings_of(scores), of_words, true_row_Q), against_Q)
    seconds: dict[str, Any] = {}
    for name, (style, by) in SCANS.items():
        traced = run_trace(prepared, facts, style, by)
        seconds[name] = traced.seconds
        theirs_Q, fused_Q = against[style.name], fused_places(traced.rankings, bm25[style.name], true_row_Q)
        found[name] = grade_places(places_in(traced.rankings, true_row_Q), theirs_Q)
        found[f"{name} + BM25"] = grade_places(fused_Q, theirs_Q)
        if name == "finf, score":
            found[name.replace(by, "mirror_ratio")] = grade_places(
                places_in(traced.by_mirror_ratio, true_row_Q), theirs_Q
            )
        tell(f"{name}: {found[name]['mrr']} with BM25 {found[f'{name} + BM25']['mrr']}")
    return found, seconds


def _first_order(
    prepared: Prepared,
    model: TextModel,
    rows: Rows,
    facts: Sequence[Fact],
    name: str,
    only: set[str] | None,
    tell: Tell,
) -> dict[str, dict[str, Floats]]:
    """recipe -> order -> scores (R, Q)."""
    num_targets_R: Ints = np.array([sum(len(window) for window in row) - 1 for row in rows], dtype=np.int64)

    def make() -> dict[str, Floats]:
        sample = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:CURVATURE_ROWS]]
        recipes: dict[str, Recipe] = {
            recipe: each for recipe, each in make_recipes(model, sample).items() if only is None or recipe in only
        }
        queries = [encode_query(model, prepared.model, Query("", fact.prompt, fact.target)) for fact in facts]
        products = row_products(model, rows, queries, recipes, tell)
        return {
            f"{recipe}|{order}": scores
            for recipe, each in products.items()
            for order, scores in each.orders(num_targets_R).items()
        }

    found: dict[str, dict[str, Floats]] = {}
    for key, scores in kept(prepared.folder / f"first-order-{name}.npz", make).items():
        recipe, order = key.split("|")
        found.setdefault(recipe, {})[order] = scores
    return found


def _choose(found: Mapping[str, Mapping[str, Floats]], facts: Sequence[Fact], prepared: Prepared) -> tuple[str, str]:
    """The recipe of ours and the order with the largest MRR."""
    mrr = {
        (recipe, order): _mrr(scores, facts, prepared)
        for recipe, orders in found.items()
        for order, scores in orders.items()
        if not recipe.startswith(DOT)
    }
    return max(mrr, key=lambda pair: mrr[pair])


def _mrr(scores_RQ: Floats, facts: Sequence[Fact], prepared: Prepared) -> float:
    return float((1 / places_of(scores_RQ, [prepared.row_of[fact.fact_id] for fact in facts])).mean())


def _bm25(prepared: Prepared, facts: Sequence[Fact], style: Style, with_target: bool = True) -> Floats:
    """finf's own, with the words of all rows counted."""
    lines = list(map(fact_line, facts))
    texts = [
        QueryText(fill_template(style.context, line), fill_template(style.target, line) if with_target else "")
        for line in lines
    ]
    return LexicalIndex(texts, 8, count_words(prepared.texts)).overlap(prepared.texts).bm25_RQ


def _minilm(prepared: Prepared, facts: Sequence[Fact]) -> Floats:
    """Texts of like length are embedded together: a batch is padded to its longest."""
    order = np.argsort([len(text) for text in prepared.texts])

    def make() -> dict[str, Floats]:
        texts = [prepared.texts[place] for place in order]
        sorted_RQ = minilm_scores(texts, [fact.prompt + fact.target for fact in facts], 0)
        scores_RQ = np.empty_like(sorted_RQ)
        scores_RQ[order] = sorted_RQ
        return {"scores": scores_RQ}

    return kept(prepared.folder / "minilm.npz", make)["scores"]
