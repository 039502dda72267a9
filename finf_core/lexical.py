"""What a query and a row share in words: the evidence that needs no model.

Words are runs of letters and digits in lower case, so neither line breaks, quotes nor underscores matter. `shared`
finds copies, as n-gram tools do; `bm25` orders rows for a query that was reworded.
Name suffixes: R rows, Q queries, G distinct n-grams of all queries, W distinct words of all queries.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from finf_core.scores import Floats

WORD = re.compile(r"[^\W_]+")
FEWEST_WORDS = 5  # a shorter query shares all its words with some row by chance
K1, B = 1.5, 0.75  # of BM25

Words = list[str]


class QueryText(NamedTuple):
    context: str
    target: str


@dataclass(frozen=True)
class WordCounts:
    """How common words are in a sample of rows."""

    num_rows: int
    mean_words: float  # of a row
    rows_of_word: Mapping[str, int]


class Overlap(NamedTuple):
    """What rows and queries have in common."""

    shared_RQ: Floats  # share of the query's n-grams that stand in the row; NaN: the query is too short to say
    bm25_RQ: Floats  # 0: no word in common


def words_of(text: str) -> Words:
    return WORD.findall(text.lower())


def count_words(texts: Iterable[str]) -> WordCounts:
    """In how many of the texts each word stands, and how long a text is."""
    num_rows = num_words = 0
    rows_of_word: dict[str, int] = {}
    for text in texts:
        words = words_of(text)
        num_rows, num_words = num_rows + 1, num_words + len(words)
        for word in set(words):
            rows_of_word[word] = rows_of_word.get(word, 0) + 1
    return WordCounts(num_rows, num_words / max(1, num_rows), rows_of_word)


class LexicalIndex:
    """The n-grams and words of all queries, ready to be looked for in any rows.

    Args:
        ngram_words: n. A query of fewer words is one n-gram.
        counts: of a sample of the corpus; they weigh words for BM25.
    """

    def __init__(self, queries: Sequence[QueryText], ngram_words: int, counts: WordCounts) -> None:
        whole = [words_of(query.context + query.target) for query in queries]
        target = [words_of(query.target) for query in queries]
        has_ngrams = [len(words) >= ngram_words for words in target]
        self.parts = (
            _Shares(whole, [min(len(words), ngram_words) if len(words) >= FEWEST_WORDS else 0 for words in whole]),
            _Shares(target, [ngram_words if is_enough else 0 for is_enough in has_ngrams]),
        )
        asked = [part if is_enough else every for part, every, is_enough in zip(target, whole, has_ngrams, strict=True)]
        self.bm25 = _Bm25(asked, counts)

    def overlap(self, texts: Sequence[str]) -> Overlap:
        """Compare rows with every query.

        `shared` is that of the whole query or, where that is larger and its target is long enough, of its target alone:
        a row may hold the answer without the question.
        """
        rows = [words_of(text) for text in texts]
        whole_RQ, target_RQ = (part.of_rows(rows) for part in self.parts)
        return Overlap(np.fmax(whole_RQ, target_RQ), self.bm25.of_rows(rows))


class _Shares:
    """The share of each query's n-grams that a row has; NaN for a query with n = 0."""

    def __init__(self, queries: Sequence[Words], n_of_query: Sequence[int]) -> None:
        self.sizes = sorted(set(n_of_query) - {0})
        grams = [_ngrams(words, [n] if n else []) for words, n in zip(queries, n_of_query, strict=True)]
        self.terms = _Terms(grams)
        self.queries_GQ = _is_there(self.terms.count(grams)).T
        self.num_grams_Q = np.array([len(set(each)) or np.nan for each in grams])

    def of_rows(self, rows: Sequence[Words]) -> Floats:
        rows_RG = _is_there(self.terms.count([_ngrams(words, self.sizes) for words in rows]))
        share_RQ: Floats = (rows_RG @ self.queries_GQ).toarray() / self.num_grams_Q
        return share_RQ


class _Bm25:
    """Lucene's variant; a word counts as often as the query has it. Source: Lù 2024, arXiv:2407.03618, table 1."""

    def __init__(self, queries: Sequence[Words], counts: WordCounts) -> None:
        self.terms = _Terms(queries)
        self.queries_WQ = self.terms.count(queries).T
        df_W = np.array([counts.rows_of_word.get(word, 0) for word in self.terms.columns])
        self.idf_W = np.log1p((counts.num_rows - df_W + 0.5) / (df_W + 0.5))
        self.mean_words = max(1.0, counts.mean_words)

    def of_rows(self, rows: Sequence[Words]) -> Floats:
        counts_RW = self.terms.count(rows)
        length_R = K1 * (1 - B + B * np.array([len(words) for words in rows]) / self.mean_words)
        length_N = np.repeat(length_R, np.diff(counts_RW.indptr))
        counts_RW.data *= self.idf_W[counts_RW.indices] / (counts_RW.data + length_N)
        scores_RQ: Floats = (counts_RW @ self.queries_WQ).toarray()
        return scores_RQ


def _ngrams(words: Words, sizes: Iterable[int]) -> list[str]:
    return [" ".join(words[start : start + n]) for n in sizes for start in range(len(words) - n + 1)]


class _Terms:
    """Counts the terms of these documents in lists of terms. (That of scikit-learn takes a second to import.)"""

    def __init__(self, documents: Iterable[Iterable[str]]) -> None:
        terms = sorted({term for document in documents for term in document})
        self.columns = {term: column for column, term in enumerate(terms)}

    def count(self, documents: Sequence[Sequence[str]]) -> csr_matrix:
        """(documents, terms): how often each stands there; other terms are left out."""
        known = [[self.columns[term] for term in document if term in self.columns] for document in documents]
        starts = np.cumsum([0, *(len(columns) for columns in known)])
        columns = np.fromiter(chain.from_iterable(known), np.int64, count=starts[-1])
        counts = csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(known), len(self.columns)))
        counts.sum_duplicates()
        return counts


def _is_there(counts: csr_matrix) -> csr_matrix:
    return (counts > 0).astype(np.float64)
