"""Text or token ids -> windows, with a loss mask where only a part of the text counts."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from finf_core.chat import Span
from finf_core.classifier import Classifier
from finf_core.errors import InputError
from finf_core.scores import Ints
from finf_core.spec import ModelSpec
from finf_core.windows import TokenIds, Window, split_into_windows
from tasks.corpus import CorpusRow
from tasks.items import Item
from tasks.loaded_model import ItemModel, LoadedModel, TextModel, as_text
from tasks.queries import Query

PORTION_CHARACTERS = 4_000_000


class RowTokens(NamedTuple):
    """All tokens of a row, and which of them count in the loss (None: all)."""

    ids: TokenIds  # (T,)
    counts: npt.NDArray[np.bool_] | None = None  # (T,)

    def target_places(self) -> Ints:
        """(N,): the tokens that are targets; the first one is predicted by nothing."""
        counts_T = np.ones(len(self.ids), dtype=np.bool_) if self.counts is None else self.counts
        return np.flatnonzero(counts_T[1:]).astype(np.int64) + 1


def encode_rows(model: TextModel, spec: ModelSpec, texts: Sequence[str]) -> list[list[Window]]:
    """Each text as its windows; every token counts, and special tokens are the tokenizer's own choice."""
    return [windows_of(model, spec, ids) for ids in tokenize(model, texts)]


def encode_corpus_rows(model: LoadedModel, spec: ModelSpec, rows: Sequence[CorpusRow], shard: str) -> list[list[Any]]:
    """The examples of each row without flaw: windows of its text or token ids (of a chat maybe only a part counts), or
    the one item that it is.

    Raises:
        InputError: a token id outside the model's vocabulary, or a label outside its classes; names shard and row.
    """
    if isinstance(model, ItemModel):
        return [[item_example(model, row.item, f"{shard}: row {row.row}")] for row in rows if row.item is not None]
    model = as_text(model)
    return [windows_of(model, spec, *tokens) for tokens in tokens_of(model, rows, shard)]


def tokens_of(model: TextModel, rows: Sequence[CorpusRow], shard: str) -> list[RowTokens]:
    """The tokens of rows without flaw: their own, checked, or those of their text."""
    if rows and rows[0].token_ids is not None:
        return [RowTokens(checked_ids(model, row, shard)) for row in rows]
    special = not (rows and rows[0].has_special_tokens)
    if not rows or rows[0].counted is None:
        return [RowTokens(ids) for ids in tokenize(model, [row.text or "" for row in rows], special)]
    marked = (
        each for portion in _portions([row.text or "" for row in rows]) for each in _marked(model, portion, special)
    )
    return [
        RowTokens(ids, reaches_into(offsets, row.counted or ()))
        for (ids, offsets), row in zip(marked, rows, strict=True)
    ]


def _marked(model: TextModel, texts: Sequence[str], special: bool) -> Iterator[tuple[TokenIds, npt.NDArray[np.int64]]]:
    """The tokens of each text, and the characters (T, 2) that each stands for."""
    encoded = model.tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield np.asarray(ids, dtype=np.int64), np.asarray(offsets, dtype=np.int64).reshape(-1, 2)


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """Consecutive texts that are tokenised together: a tokenizer holds some 250 bytes for each token of a call."""
    portion: list[str] = []
    num_characters = 0
    for text in texts:
        if portion and num_characters + len(text) > PORTION_CHARACTERS:
            yield portion
            portion, num_characters = [], 0
        portion.append(text)
        num_characters += len(text)
    if portion:
        yield portion


class ShownTokens(NamedTuple):
    """A row as tokens, and where each ends in its text."""

    text: str
    tokens: RowTokens
    end_T: Ints  # characters; never less than the one before


def shown_tokens(model: TextModel, row: CorpusRow, shard: str) -> ShownTokens:
    """One row without flaw; the text of token ids is what each stands for alone, one after the other."""
    [tokens] = tokens_of(model, [row], shard)
    if row.token_ids is None:
        text, special = row.text or "", not row.has_special_tokens
        encoded = model.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"]]
        return ShownTokens(text, tokens, np.maximum.accumulate(ends))
    pieces = [str(model.tokenizer.decode([token])) for token in tokens.ids.tolist()]
    return ShownTokens("".join(pieces), tokens, np.cumsum([len(piece) for piece in pieces]))


def reaches_into(offsets_T2: npt.NDArray[np.int64], spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Which tokens, by their first and last character (exclusive), hold a character of one of the spans."""
    counts_T = np.zeros(len(offsets_T2), dtype=np.bool_)
    for start, stop in spans:
        counts_T |= (offsets_T2[:, 0] < stop) & (offsets_T2[:, 1] > start)
    return counts_T


def checked_ids(model: TextModel, row: CorpusRow, shard: str) -> TokenIds:
    ids, num_vocabulary = row.token_ids, model.adapter.num_vocabulary
    if ids is None:
        raise InputError(f"{shard}: row {row.row}: no token ids")
    if ids.min() < 0 or ids.max() >= num_vocabulary:
        wrong = ids[(ids < 0) | (ids >= num_vocabulary)][0]
        raise InputError(
            f"{shard}: row {row.row}: token id {wrong} is outside the model's vocabulary of {num_vocabulary}; "
            "were these tokens made with the tokenizer of this model?"
        )
    return ids


def tokenize(model: TextModel, texts: Sequence[str], add_special_tokens: bool = True) -> list[TokenIds]:
    options = {"add_special_tokens": add_special_tokens, "verbose": False}
    return [
        np.asarray(ids, dtype=np.int64)
        for portion in _portions(texts)
        for ids in model.tokenizer(portion, **options)["input_ids"]
    ]


def item_example(model: ItemModel, item: Item, where: str) -> Any:
    """Raises InputError: a label outside the network's classes; `where` says whose."""
    example, adapter = model.example(item), model.adapter
    if isinstance(adapter, Classifier) and example.label >= (num_classes := adapter.num_classes(example)):
        raise InputError(f"{where}: label {example.label}, but the network knows {num_classes} classes, from 0")
    return example


def windows_of(
    model: TextModel, spec: ModelSpec, ids: TokenIds, counts: npt.NDArray[np.bool_] | None = None
) -> list[Window]:
    """Token ids as windows; `counts` says which of them count, by default all."""
    return split_into_windows(ids, model.context_tokens, spec.overlap_tokens, counts)


def encode_query(model: LoadedModel, spec: ModelSpec, query: Query) -> list[Any]:
    """The query's items; or context + target, tokenised as one text: a token counts when it reaches into the target."""
    if isinstance(model, ItemModel):
        where = f"query {query.query_id!r}"
        return [item_example(model, model.reader.unpack(packed), where) for packed in query.items]
    model = as_text(model)
    options = {"add_special_tokens": not query.has_special_tokens, "verbose": False}
    encoded = model.tokenizer(query.context + query.target, return_offsets_mapping=True, **options)
    ends = np.asarray([end for _, end in encoded["offset_mapping"]])
    counts = None if not query.context else ends > len(query.context)
    return windows_of(model, spec, np.asarray(encoded["input_ids"], dtype=np.int64), counts)
