"""What query and row share in words, against slow counting and against another implementation of BM25."""

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finf_core.lexical import LexicalIndex, QueryText, WordCounts, count_words, words_of

NOTHING = WordCounts(0, 0.0, {})
ITEM = "Ann buys twelve red apples and sells five of them to Bob at noon today"  # 15 words


def shared(query: QueryText, row: str, ngram_words: int = 8) -> float:
    return float(LexicalIndex([query], ngram_words, NOTHING).overlap([row]).shared_RQ[0, 0])


def test_a_copy_inside_a_longer_row_is_shared_whole_whatever_its_case_lines_and_quotes() -> None:
    row = f'first_line\n"{ITEM.upper()}"'.replace(" ", "\n\t") + " and more"
    assert shared(QueryText("", ITEM), row) == 1.0


def test_a_word_changed_costs_the_ngrams_that_hold_it() -> None:
    assert shared(QueryText("", ITEM), ITEM.replace("Ann", "Eve")) == pytest.approx(7 / 8)
    assert shared(QueryText("", ITEM), ITEM.replace("five", "four")) == 0.0


def test_the_answer_alone_counts_where_the_question_is_not_in_the_row() -> None:
    query = QueryText("What happens to the apples in this long and winding story? ", ITEM)
    assert shared(query, ITEM) == 1.0
    short = QueryText("What happens to the apples in this long and winding story? ", "twelve apples")
    assert shared(short, "Twelve apples.") == 0.0


def test_a_short_query_is_one_ngram_and_a_very_short_one_is_not_judged() -> None:
    assert shared(QueryText("", "one two three four five six"), "zero one two three four five six") == 1.0
    assert shared(QueryText("", "one two three four five six"), "one two three four five") == 0.0
    assert np.isnan(shared(QueryText("", "one two three four"), "one two three four"))


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d_e", "F"]), max_size=14).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(queries=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), rows=st.lists(WORDS, max_size=5))
def test_shares_equal_slow_counting(queries: list[tuple[str, str]], rows: list[str]) -> None:
    found = LexicalIndex([QueryText(*query) for query in queries], 3, NOTHING).overlap(rows)
    for r, row in enumerate(rows):
        for q, (context, target) in enumerate(queries):
            assert found.shared_RQ[r, q] == pytest.approx(slow_share(context, target, row, 3), nan_ok=True)


def slow_share(context: str, target: str, row: str, n: int) -> float:
    def windows(text: str, size: int) -> list[str]:
        words = text.lower().replace("_", " ").split()
        return [repr(words[start : start + size]) for start in range(len(words) - size + 1)]

    def share(text: str, size: int) -> float:
        wanted, found = set(windows(text, size)), windows(row, size)
        return sum(gram in found for gram in wanted) / len(wanted)

    num_words = len(windows(context + target, 1))
    shares = [share(context + target, min(n, num_words))] if num_words >= 5 else []
    shares += [share(target, n)] if windows(target, n) else []
    return max(shares, default=float("nan"))


def test_bm25_equals_another_implementation() -> None:
    rows = ["the red dog and the red cat", "a dog", "stones and rivers and the long dark night", "red red red stone"]
    queries = ["red dog red", "the unknown stone", "night"]
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    index.index([words_of(row) for row in rows], show_progress=False)
    expected_RQ = np.stack([index.get_scores(known(query, rows)) for query in queries], axis=1)
    found = LexicalIndex([QueryText("", query) for query in queries], 8, count_words(rows)).overlap(rows)
    assert found.bm25_RQ == pytest.approx(expected_RQ, rel=1e-5)
    assert expected_RQ.max() > 0.9


def known(query: str, rows: list[str]) -> list[str]:
    """bm25s has no entry for words that no row has."""
    return [word for word in words_of(query) if any(word in words_of(row) for row in rows)]


def test_rows_and_queries_without_words_share_nothing() -> None:
    found = LexicalIndex([QueryText("", "…"), QueryText("", ITEM)], 8, NOTHING).overlap(["", "???"])
    assert np.isnan(found.shared_RQ[:, 0]).all()
    assert (found.shared_RQ[:, 1] == 0).all()
    assert (found.bm25_RQ == 0).all()
    assert LexicalIndex([QueryText("", ITEM)], 8, NOTHING).overlap([]).bm25_RQ.shape == (0, 1)
