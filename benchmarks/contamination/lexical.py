"""Methods that read the text and never the model, over the whole corpus, fast enough for 20,000 rows and 1,000 queries.

`ngram`: share of the query's 8-grams of whitespace-separated words; `ngram_words`: of lower-case words without
punctuation, as decontamination does since GPT-3; `structure`: 8-grams of program tokens with every name that is not of
the language replaced by one placeholder, weighed by their rarity: what detectors of copied homework do (Schleimer et
al. 2003, MOSS), blind to names, layout and comments. `bm25` is divided by the query's number of words: its sum grows
with them. Name suffixes: R rows, Q queries, G n-grams, P permutations.
"""

import builtins
import keyword
import re
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from finf_core.scores import Floats
from tasks.evaluation.lexical_baselines import NUM_PERMUTATIONS, SHINGLE_WORDS, bm25_scores, minilm_scores

NGRAM = 8
OTHER_LANGUAGES = (
    "auto bool break case char const default delete do double else enum extern float for function goto if int let long "
    "new null printf return short signed sizeof static struct switch this throw true false typedef typeof undefined "
    "unsigned var void while console log Math"
)
KEPT_NAMES = frozenset({*keyword.kwlist, *dir(builtins), *OTHER_LANGUAGES.split()})
QUERIES_AT_ONCE = 16

PARTS = ("target", "whole")  # what of a query a method reads
PARTS_OF = {"minilm": ("whole",)}  # where one of them costs half an hour

Texts = Sequence[str]
Words = Callable[[str], list[str]]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def program_tokens(text: str) -> list[str]:
    """Names of the language, numbers and signs; `v` for other names. Docstrings and comments go, quotes are alike."""
    bare = re.sub(r'"""(?s:.*?)"""|\'\'\'(?s:.*?)\'\'\'|/\*(?s:.*?)\*/|(?m:#.*$)|(?m://.*$)', " ", text)
    tokens = re.findall(r"[^\W\d]\w*|\d+|[^\w\s]", bare.replace('"', "'"))
    return [token if token in KEPT_NAMES or not re.match(r"[^\W\d]", token) else "v" for token in tokens]


def shared_ngrams(split: Words, rows: Texts, queries: Texts, by_rarity: bool = False) -> Floats:
    """Share of each query's n-grams that each row holds, (R, Q).

    Args:
        by_rarity: an n-gram weighs log(rows / rows that hold it), else 1.
    """
    place: dict[tuple[str, ...], int] = {}
    rows_RG, queries_QG = (_incidence(split, texts, place) for texts in (rows, queries))
    rows_RG.resize(len(rows), len(place))
    weight_G = np.ones(len(place))
    if by_rarity:
        weight_G = np.log((len(rows) + 1) / (1 + np.asarray(rows_RG.sum(axis=0)).ravel()))
    weighed_QG = queries_QG.multiply(weight_G).tocsr()
    whole_Q = np.maximum(np.asarray(weighed_QG.sum(axis=1)).ravel(), 1e-12)
    shares_RQ: Floats = (rows_RG @ weighed_QG.T).toarray() / whole_Q
    return shares_RQ


def _incidence(split: Words, texts: Texts, place: dict[tuple[str, ...], int]) -> sparse.csr_matrix:
    indices: list[int] = []
    starts = [0]
    for text in texts:
        tokens = split(text)
        grams = {tuple(tokens[at : at + NGRAM]) for at in range(len(tokens) - NGRAM + 1)}
        indices += [place.setdefault(gram, len(place)) for gram in sorted(grams)]
        starts.append(len(indices))
    return sparse.csr_matrix((np.ones(len(indices)), indices, starts), shape=(len(texts), len(place)))


def minhash(rows: Texts, queries: Texts) -> Floats:
    """Estimated Jaccard similarity of the sets of shingles, as `tasks.evaluation.lexical_baselines`, in blocks."""
    rows_RP, queries_QP = _sketches(rows), _sketches(queries)
    similarity_RQ = np.empty((len(rows), len(queries)))
    for place, query_P in enumerate(queries_QP):
        similarity_RQ[:, place] = (rows_RP == query_P).mean(axis=1)
    return similarity_RQ


def _sketches(texts: Texts) -> np.ndarray:
    from datasketch import MinHash

    sketches = []
    for text in texts:
        sketch, found = MinHash(NUM_PERMUTATIONS), words(text)
        starts = range(max(1, len(found) - SHINGLE_WORDS + 1))  # a text of fewer words is one shingle
        sketch.update_batch([" ".join(found[at : at + SHINGLE_WORDS]).encode() for at in starts])
        sketches.append(sketch.hashvalues.astype(np.uint32))
    return np.stack(sketches)


def bm25(rows: Texts, queries: Texts) -> Floats:
    per_word_RQ: Floats = bm25_scores(rows, queries, 0) / np.array([max(1, len(words(query))) for query in queries])
    return per_word_RQ


def minilm(rows: Texts, queries: Texts) -> Floats:
    """Rows of like length together: a batch is as long as its longest text."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    scores_RQ = np.empty((len(rows), len(queries)))
    scores_RQ[order] = minilm_scores([rows[place] for place in order], queries, 0)
    return scores_RQ


METHODS: dict[str, Callable[[Texts, Texts], Floats]] = {
    "ngram": lambda rows, queries: shared_ngrams(str.split, rows, queries),
    "ngram_words": lambda rows, queries: shared_ngrams(words, rows, queries),
    "structure": lambda rows, queries: shared_ngrams(program_tokens, rows, queries, by_rarity=True),
    "minhash": minhash,
    "bm25": bm25,
    "minilm": minilm,
}
