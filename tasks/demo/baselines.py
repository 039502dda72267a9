"""What the influence scores have to beat: BM25 and 8-gram overlap over the same rows.

Both return, for each query, the document ids of the best rows, best first. A row that shares nothing with the
query is never listed, so none is found by luck. Equal scores keep the corpus order; where the true row is named
in `truths` it goes behind its equals, so a tie never helps a baseline.
"""

import re
from collections.abc import Sequence

from finf_core.errors import InputError
from finf_core.extras import import_extra
from tasks.demo.corpus import Row

NUM_LISTED = 20

Truths = Sequence[str | None]  # document id of each query's true row, None for a clean query


def bm25_rankings(
    rows: Sequence[Row], query_texts: Sequence[str], truths: Truths | None = None, k: int = NUM_LISTED
) -> list[list[str]]:
    """Rank rows by BM25 (Lucene's variant, k1 1.5, b 0.75) on lower-case words; `_` splits identifiers too.

    Args:
        rows: the corpus.
        query_texts: one text per query: prompt and solution, or the solution alone.
        truths: only ever used to put a tied true row last.
        k: rows listed per query, at most.

    Raises:
        InputError: no rows, not one truth per query, or `bm25s` is not installed.
    """
    if not rows:
        raise InputError("BM25 has no rows to rank: give at least one")
    index = import_extra("bm25s", "demo", "the demo's baseline is bm25s").BM25()
    index.index([_words(row.text) for row in rows], show_progress=False)
    words_of_queries = [_words(text) for text in query_texts]
    scores = [index.get_scores(words).tolist() if words else [0.0] * len(rows) for words in words_of_queries]
    return _rankings(rows, scores, truths, k)


def ngram_rankings(
    rows: Sequence[Row], query_texts: Sequence[str], truths: Truths | None = None, k: int = NUM_LISTED, n: int = 8
) -> list[list[str]]:
    """Rank rows by the share of the query's n-grams of whitespace-separated words that they contain.

    Arguments and errors as in `bm25_rankings`. A query of fewer than `n` words finds nothing.
    """
    ngrams_of_rows = [_ngrams(row.text, n) for row in rows]
    scores = [_shares(_ngrams(text, n), ngrams_of_rows) for text in query_texts]
    return _rankings(rows, scores, truths, k)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def _shares(wanted: set[tuple[str, ...]], ngrams_of_rows: Sequence[set[tuple[str, ...]]]) -> list[float]:
    return [len(wanted & found) / max(len(wanted), 1) for found in ngrams_of_rows]


def _rankings(rows: Sequence[Row], scores: Sequence[Sequence[float]], truths: Truths | None, k: int) -> list[list[str]]:
    truths = [None] * len(scores) if truths is None else truths
    if len(truths) != len(scores):
        raise InputError(f"want one truth per query; got {len(truths)} for {len(scores)} queries")
    return [_ranking(rows, row_scores, truth, k) for row_scores, truth in zip(scores, truths, strict=True)]


def _ranking(rows: Sequence[Row], scores: Sequence[float], truth: str | None, k: int) -> list[str]:
    found = [place for place, score in enumerate(scores) if score > 0]
    found.sort(key=lambda place: (-scores[place], rows[place].document_id == truth))
    return [rows[place].document_id for place in found[:k]]
