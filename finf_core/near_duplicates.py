"""Rows that are nearly the same: images by small grey versions of them, texts by the word sequences that they share.

Each row is reduced to a signature of a few hundred bytes, on the machine that reads it; signatures are compared in one
place. Rows that are alike are joined, and so are theirs: a group is whatever hangs together.

Name suffixes: N rows, D numbers of a signature.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finf_core.images import Pixels, pillow
from finf_core.lexical import words_of

SIDE = 12  # pixels of the grey version
ROWS_AT_ONCE = 1024
SKETCH_HASHES = 32  # of a text's word sequences: the smallest hashes, a fair sample of them
COMMON_ROWS = 200  # a word sequence in more rows is boilerplate

Pair = tuple[int, int]


def image_signature(pixels: Pixels) -> bytes:
    """A grey version of `SIDE` × `SIDE` pixels."""
    grey = pillow().fromarray(pixels).convert("L")
    signature: bytes = grey.resize((SIDE, SIDE), pillow().Resampling.BOX).tobytes()
    return signature


def text_signature(text: str, ngram_words: int) -> bytes:
    """The smallest hashes of its word sequences, 8 bytes each; empty for a text of fewer words."""
    words = words_of(text)
    sequences = {" ".join(words[i : i + ngram_words]) for i in range(len(words) - ngram_words + 1)}
    hashes = sorted(hashlib.blake2b(each.encode(), digest_size=8).digest() for each in sequences)
    return b"".join(hashes[:SKETCH_HASHES])


def alike_images(signatures: Sequence[bytes], distance: float) -> Iterator[Pair]:
    """Pairs whose grey versions differ by no more than this: root mean square, of black against white = 1."""
    grey_ND = np.stack([np.frombuffer(each, np.uint8) for each in signatures]).astype(np.float32) / 255
    squares_N = (grey_ND**2).sum(axis=1)
    limit = distance**2 * grey_ND.shape[1]
    for start in range(0, len(grey_ND), ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        squared = squares_N[block, None] + squares_N[None, start:] - 2 * grey_ND[block] @ grey_ND[start:].T
        for first, second in np.argwhere(squared <= limit + 1e-4).tolist():
            if second > first:  # both count from `start`
                yield start + first, start + second


def alike_texts(signatures: Sequence[bytes], shared: float) -> Iterator[Pair]:
    """Pairs of which the shorter sketch has at least this share of its hashes in the other."""
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    sketches = [{each[i : i + 8] for i in range(0, len(each), 8)} for each in signatures]
    for row, sketch in enumerate(sketches):
        for each in sketch:
            rows_of[each].append(row)
    counts: dict[Pair, int] = defaultdict(int)
    for rows in rows_of.values():
        for first in range(len(rows) if len(rows) <= COMMON_ROWS else 0):
            for second in rows[first + 1 :]:
                counts[rows[first], second] += 1
    for (first, second), count in counts.items():
        if count >= shared * min(len(sketches[first]), len(sketches[second])):
            yield first, second


def groups_of(pairs: Iterable[Pair], num_rows: int) -> list[npt.NDArray[np.int64]]:
    """The rows that hang together, two or more of them; groups by their first row, rows rising."""
    joined = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(joined), np.int8), joined.T), shape=(num_rows, num_rows))
    _, group_N = connected_components(graph, directed=False)
    order_N = np.argsort(group_N, kind="stable")
    starts = np.flatnonzero(np.diff(group_N[order_N], prepend=-1))
    found = [each for each in np.split(order_N, starts[1:]) if len(each) > 1]
    return sorted(found, key=lambda group: int(group[0]))
