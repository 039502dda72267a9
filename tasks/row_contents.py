"""What is scored of each row: text, token ids, a chat, or several columns put together; or why it cannot be."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.chat import ASSISTANT, FIELDS, Chat, Span, read_messages
from finf_core.columns import describe_columns, find_column, take_column
from finf_core.errors import InputError
from finf_core.spec import CorpusSpec
from finf_core.template import fill_template, template_columns
from finf_core.windows import TokenIds


class Content(NamedTuple):
    text: str | None = None  # None: token ids, or a flaw
    token_ids: TokenIds | None = None
    flaw: str | None = None
    counted: tuple[Span, ...] | None = None  # characters that count in the loss; None: all
    has_special_tokens: bool = False  # those that belong there: the tokenizer adds none


def content_columns(corpus: CorpusSpec) -> list[str]:
    """The columns that are read to score a row."""
    key, value = corpus.content
    return list(dict.fromkeys(template_columns(value))) if key == "text_template" else [value]


def check_columns(schema: pa.Schema, corpus: CorpusSpec, uri: str) -> None:
    """Raises InputError: a column is missing or holds something else; names file and column."""
    key, _ = corpus.content
    named = [(key, name) for name in content_columns(corpus)]
    for of_key, name in [*named, *corpus.labels.items()]:
        if find_column(schema, name) is None:
            there = describe_columns(schema)
            raise InputError(f"{uri}: no column {name!r} (corpus.{of_key}); the columns are {there}")
    is_right, wanted = KINDS[key]
    for _, name in named:
        found = find_column(schema, name)
        if found is not None and not is_right(found.kind):
            raise InputError(f"{uri}: column {name!r} holds {found.kind}, not {wanted}")


def read_contents(table: pa.Table, corpus: CorpusSpec, chat: Chat | None) -> Iterator[Content]:
    """The content of each row of a table that holds the columns needed.

    Raises:
        InputError: chats, and no way to write them.
    """
    key, value = corpus.content
    if key == "text_template":
        return _filled(table, value)
    column = take_column(table, value)
    if key == "tokens_column":
        return _token_lists(column)
    if key == "text_column":
        return _texts(column)
    if chat is None:
        raise InputError(f"corpus.messages_column = {value!r}: chats need a chat template to become text")
    return _chats(column, chat, corpus.loss_on == ASSISTANT)


def _texts(column: pa.ChunkedArray) -> Iterator[Content]:
    for text in column.cast(pa.large_string()).to_pylist():
        yield Content(text, flaw="text is null" if text is None else None if text.strip() else "text is empty")


def _token_lists(column: pa.ChunkedArray) -> Iterator[Content]:
    """Each list as an array of its own; ids outside the vocabulary are found where the model is known."""
    for chunk in column.cast(pa.large_list(pa.int64())).chunks:
        ids, offsets = np.array(chunk.values.fill_null(0)), chunk.offsets.to_numpy()
        is_null = chunk.values.is_null().to_numpy(zero_copy_only=False)
        for is_there, start, stop in zip(chunk.is_valid().to_pylist(), offsets[:-1], offsets[1:], strict=True):
            if not is_there or start == stop:
                yield Content(flaw="the list of tokens is empty" if is_there else "the list of tokens is null")
            else:
                flaw = "a token is null" if is_null[start:stop].any() else None
                yield Content(token_ids=ids[start:stop], flaw=flaw)


def _filled(table: pa.Table, template: str) -> Iterator[Content]:
    names = dict.fromkeys(template_columns(template))
    columns = [take_column(table, name).to_pylist() for name in names]
    for values in zip(*columns, strict=True):
        try:
            text = fill_template(template, dict(zip(names, values, strict=True)))
        except InputError as error:
            yield Content(flaw=str(error))
        else:
            yield Content(text, flaw=None if text.strip() else "text is empty")


def _chats(column: pa.ChunkedArray, chat: Chat, only_assistant: bool) -> Iterator[Content]:
    for value in column.to_pylist():
        try:
            text, counted = chat.write(read_messages(value), only_assistant)
        except InputError as error:
            yield Content(flaw=str(error))
        else:
            flaw = "nothing in it is said by the assistant" if counted == () else None
            yield Content(text, None, flaw, counted, chat.has_special_tokens)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_text_or_number(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds_token_ids(kind: pa.DataType) -> bool:
    return _is_list(kind) and bool(pa.types.is_integer(kind.value_type)) and kind.value_type != pa.uint64()


def _holds_messages(kind: pa.DataType) -> bool:
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return any(all(name in fields and _is_text(fields[name]) for name in names) for names in FIELDS)


KINDS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "text_column": (_is_text, "text"),
    "tokens_column": (_holds_token_ids, "lists of token ids (integers)"),
    "messages_column": (_holds_messages, "lists of {role, content} or {from, value}, both text"),
    "text_template": (_is_text_or_number, "text or numbers"),
}
