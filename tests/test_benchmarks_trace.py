"""What the benchmark of facts counts, by hand."""

import math
import re

import numpy as np
import pytest

from benchmarks.trace.facts import PROMPTS, facts_of
from benchmarks.trace.gradients import Products
from benchmarks.trace.measure import fused_places, grade_places, places_in, places_of, rankings_of
from benchmarks.trace.page import HEADING, INTRODUCTION, ORDERS, render_section

SENTENCE = {
    "id": "P177-4",
    "relation_name": "crosses",
    "head": "albert bridge",
    "tail": "river thames",
    "text": "Between Albert Bridge and Battersea Bridge on the River Thames .",
}


def test_names_are_as_the_sentence_has_them() -> None:
    [fact] = facts_of([SENTENCE, SENTENCE | {"head": "alberts bridge"}])
    assert (fact.head, fact.tail) == ("Albert Bridge", "River Thames")
    assert fact.prompt + fact.target == "Albert Bridge spans the River Thames"
    assert fact.short_prompt == "Bridge spans the"
    assert fact.sentence_prompt + fact.target == SENTENCE["text"].removesuffix(" .")


def test_every_prompt_names_the_head_and_nothing_else() -> None:
    assert len(PROMPTS) == 16
    assert all(prompt.count("{head}") == 1 for prompt in PROMPTS.values())


def test_a_row_with_the_score_of_the_true_one_stands_before_it() -> None:
    scores_RQ = np.array([[3.0, 0.0], [2.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    assert places_of(scores_RQ, [1, 2]).tolist() == [3.0, 4.0]
    assert places_of(scores_RQ, [0, 0]).tolist() == [2.0, 4.0]


def test_rankings_end_where_nothing_speaks_for_a_row() -> None:
    scores_RQ = np.array([[0.5], [0.0], [2.0], [-1.0]])
    assert rankings_of(scores_RQ) == [[2, 0]]
    assert places_in(rankings_of(scores_RQ), [0]).tolist() == [2.0]
    assert places_in(rankings_of(scores_RQ), [1]).tolist() == [math.inf]


def test_two_rankings_are_fused_query_by_query() -> None:
    assert fused_places([[1, 2], [5]], [[2, 3], [6, 5]], [2, 6]).tolist() == [1.0, 2.0]


def test_grades_are_means_and_a_row_that_is_not_listed_counts_nothing() -> None:
    grades = grade_places(np.array([1.0, 4.0, 20.0, math.inf]), np.array([1.0, 1.0, 1.0, 2.0]))
    means = {name: grade["mean"] for name, grade in grades.items()}
    mrr = (1 + 1 / 4 + 1 / 20) / 4
    assert means == pytest.approx(
        {"mrr": mrr, "recall_at_1": 1 / 4, "recall_at_10": 1 / 2, "mrr_over_bm25": mrr - 7 / 8}
    )
    assert all(grade["low"] <= grade["mean"] <= grade["high"] for grade in grades.values())


def test_products_are_normalised_by_targets_slope_and_gradient() -> None:
    products = Products(np.array([[2.0, 4.0], [6.0, 8.0]]), np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    orders = products.orders(np.array([1, 2]))
    assert orders["score"].tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert orders["row_ratio"].tolist() == [[1.0, 1.0], [1.5, 1.0]]
    assert orders["over the row's gradient"].tolist() == [[2.0, 4.0], [3.0, 4.0]]


def test_the_page_shows_the_best_method_first_and_every_interval() -> None:
    of = grade_places(np.array([1.0, 2.0]))
    worse = grade_places(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    numbers = dict.fromkeys(re.findall(r"{(\w+)[:}]", INTRODUCTION.read_text(encoding="utf-8")), 0)
    recipes = {"kfac": dict.fromkeys(ORDERS, 0.25)}
    found = numbers | {"training": {}, "knowledge": {}, "chosen": ["kfac", "score"], "recipes": recipes}
    page = render_section(found | {"results": {"finf": worse, "BM25": of}}, "2026-11-27")
    assert page.startswith(f"{HEADING}\n\n")
    rows = [line for line in page.splitlines() if line.startswith(("| BM25", "| finf"))]
    assert [row.split(" | ")[0] for row in rows] == ["| BM25", "| finf"]
    assert rows[1].endswith("| 0.38 [0.25, 0.50] | 0.00 [0.00, 0.00] | 1.00 [1.00, 1.00] | -0.38 [-0.50, -0.25] |")
    assert "| kfac | 0.250 | 0.250 | 0.250 | 0.250 |" in page
