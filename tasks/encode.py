"""Text or token ids -> windows, with a loss mask where only a part of the text counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from finf_core.errors import InputError
from finf_core.scores import Ints
from finf_core.spec import ModelSpec
from finf_core.windows import TokenIds, Window, split_into_windows
from tasks.checkpoint import LoadedModel
from tasks.corpus import CorpusRow


def encode_rows(model: LoadedModel, spec: ModelSpec, texts: Sequence[str]) -> list[list[Window]]:
    """Each text as its windows; every token counts, and special tokens are the tokenizer's own choice."""
    return [windows_of(model, spec, ids) for ids in tokenize(model, texts)]


def encode_corpus_rows(
    model: LoadedModel, spec: ModelSpec, rows: Sequence[CorpusRow], shard: str
) -> list[list[Window]]:
    """As `encode_rows`, for rows (without flaw) that hold text or token ids.

    Raises:
        InputError: a token id outside the model's vocabulary; names shard and row.
    """
    return [windows_of(model, spec, ids) for ids in token_ids_of(model, rows, shard)]


def token_ids_of(model: LoadedModel, rows: Sequence[CorpusRow], shard: str) -> list[TokenIds]:
    """The token ids of rows without flaw: their own, checked, or those of their text."""
    if not rows or rows[0].token_ids is None:
        return tokenize(model, [row.text or "" for row in rows])
    num_vocabulary = model.adapter.num_vocabulary
    found = [row.token_ids for row in rows if row.token_ids is not None]
    for row, ids in zip(rows, found, strict=True):
        if ids.min() < 0 or ids.max() >= num_vocabulary:
            wrong = ids[(ids < 0) | (ids >= num_vocabulary)][0]
            raise InputError(
                f"{shard}: row {row.row}: token id {wrong} is outside the model's vocabulary of {num_vocabulary}; "
                "were these tokens made with the tokenizer of this model?"
            )
    return found


class RowTokens(NamedTuple):
    """A row as tokens, and where each ends in its text."""

    text: str
    ids: TokenIds
    end_T: Ints  # characters; never less than the one before


def row_tokens(model: LoadedModel, row: CorpusRow, shard: str) -> RowTokens:
    """One row without flaw; the text of token ids is what each stands for alone, one after the other."""
    if row.token_ids is None:
        text = row.text or ""
        encoded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"]]
        return RowTokens(text, np.asarray(encoded["input_ids"], dtype=np.int64), np.maximum.accumulate(ends))
    [ids] = token_ids_of(model, [row], shard)
    pieces = [str(model.tokenizer.decode([token])) for token in ids.tolist()]
    return RowTokens("".join(pieces), ids, np.cumsum([len(piece) for piece in pieces]))


def tokenize(model: LoadedModel, texts: Sequence[str]) -> list[TokenIds]:
    encoded = model.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return [np.asarray(ids, dtype=np.int64) for ids in encoded]


def windows_of(
    model: LoadedModel, spec: ModelSpec, ids: TokenIds, counts: npt.NDArray[np.bool_] | None = None
) -> list[Window]:
    """Token ids as windows; `counts` says which of them count, by default all."""
    return split_into_windows(ids, model.context_tokens, spec.overlap_tokens, counts)


def encode_query(model: LoadedModel, spec: ModelSpec, context: str, target: str) -> list[Window]:
    """`context` + `target`, tokenised as one text; a token counts when it reaches into the target."""
    encoded = model.tokenizer(context + target, return_offsets_mapping=True, verbose=False)
    ends = np.asarray([end for _, end in encoded["offset_mapping"]])
    counts = None if not context else ends > len(context)
    return windows_of(model, spec, np.asarray(encoded["input_ids"], dtype=np.int64), counts)
