"""What is scored of each row: text, token ids, a chat, or several columns put together; or why it cannot be."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.chat import ASSISTANT, FIELDS, Chat, Span, read_messages
from finf_core.columns import describe_columns, find_column, take_column
from finf_core.errors import InputError
from finf_core.spec import CorpusSpec
from finf_core.template import fill_template, template_columns
from finf_core.windows import TokenIds
from tasks.items import Item, ItemReader, item_columns
from tasks.python_values import UNREADABLE, python_values

NOT_UTF8 = "text is not valid UTF-8"
MOST_CHARACTER_BYTES = 4  # of UTF-8
TOKEN_BYTES = 8  # of an id, as it is held


class Content(NamedTuple):
    text: str | None = None  # None: token ids, or a flaw
    token_ids: TokenIds | None = None
    flaw: str | None = None
    counted: tuple[Span, ...] | None = None  # characters that count in the loss; None: all
    has_special_tokens: bool = False  # those that belong there: the tokenizer adds none
    item: Item | None = None  # in place of text and tokens: an image, or columns for a model of one's own


def content_columns(corpus: CorpusSpec) -> list[str]:
    """The columns that are read to score a row."""
    key, value = corpus.content
    if not corpus.is_text:
        return item_columns(corpus)
    return list(dict.fromkeys(template_columns(value))) if key == "text_template" else [value]


def check_columns(schema: pa.Schema, corpus: CorpusSpec, uri: str) -> None:
    """Raises InputError: a column is missing or holds something else; names file and column."""
    key, _ = corpus.content
    named = [("label_column" if name == corpus.label_column else key, name) for name in content_columns(corpus)]
    for of_key, name in [*named, *corpus.labels.items()]:
        if find_column(schema, name) is None:
            there = describe_columns(schema)
            raise InputError(f"{uri}: no column {name!r} (corpus.{of_key}); the columns are {there}")
    for of_key, name in named:
        is_right, wanted = KINDS[of_key]
        found = find_column(schema, name)
        if found is not None and not is_right(found.kind):
            raise InputError(f"{uri}: column {name!r} holds {found.kind}, not {wanted}")


def read_contents(table: pa.Table, corpus: CorpusSpec, chat: Chat | None) -> Iterator[Content]:
    """The content of each row of a table that holds the columns needed.

    Raises:
        InputError: chats, and no way to write them.
    """
    key, value = corpus.content
    most = corpus.max_row_bytes
    if not corpus.is_text:
        found = ItemReader(corpus).read_table(table)
        return (Content(flaw=each) if isinstance(each, str) else Content(item=each) for each in found)
    if key == "text_template":
        return _filled(table, value, most)
    column = take_column(table, value)
    if key == "tokens_column":
        return _token_lists(column, most)
    if key == "text_column":
        return _texts(column, most)
    if chat is None:
        raise InputError(f"corpus.messages_column = {value!r}: chats need a chat template to become text")
    return _chats(column, chat, corpus.loss_on == ASSISTANT, most)


def _texts(column: pa.ChunkedArray, most: int) -> Iterator[Content]:
    """A text that is too long never becomes a Python string, which may take four times its bytes."""
    for chunk in column.cast(pa.large_string()).chunks:
        sizes = pc.binary_length(chunk).fill_null(0).to_numpy(zero_copy_only=False)
        if len(sizes) == 0 or sizes.max() <= most:
            yield from map(_text, python_values(chunk))
            continue
        for index, size in enumerate(sizes.tolist()):
            if size > most:
                yield Content(flaw=_too_long("text", size, most))
            else:
                yield from map(_text, python_values(chunk.slice(index, 1)))


def _text(text: Any) -> Content:
    if text is None:
        return Content(flaw="text is null")
    if text is UNREADABLE:
        return Content(flaw=NOT_UTF8)
    return Content(text, flaw=None if text.strip() else "text is empty")


def _written(text: str, most: int, **content: Any) -> Content:
    """A text that was put together, unless that made it too long."""
    if len(text) * MOST_CHARACTER_BYTES > most and (size := len(text.encode("utf-8", "surrogatepass"))) > most:
        return Content(flaw=_too_long("text", size, most))
    return Content(text, **content)


def _too_long(what: str, size: int, most: int) -> str:
    return f"{what} of {size:,} bytes is longer than corpus.max_row_bytes = {most:,}; split it, or raise the limit"


def _token_lists(column: pa.ChunkedArray, most: int) -> Iterator[Content]:
    """Each list as an array of its own; ids outside the vocabulary are found where the model is known."""
    for chunk in column.cast(pa.large_list(pa.int64())).chunks:
        ids, offsets = np.array(chunk.values.fill_null(0)), chunk.offsets.to_numpy()
        is_null = chunk.values.is_null().to_numpy(zero_copy_only=False)
        for is_there, start, stop in zip(chunk.is_valid().to_pylist(), offsets[:-1], offsets[1:], strict=True):
            if not is_there or start == stop:
                yield Content(flaw="the list of tokens is empty" if is_there else "the list of tokens is null")
            elif (size := int(stop - start) * TOKEN_BYTES) > most:
                yield Content(flaw=_too_long("a list of tokens", size, most))
            else:
                flaw = "a token is null" if is_null[start:stop].any() else None
                yield Content(token_ids=ids[start:stop], flaw=flaw)


def _filled(table: pa.Table, template: str, most: int) -> Iterator[Content]:
    names = list(dict.fromkeys(template_columns(template)))
    columns = [python_values(take_column(table, name)) for name in names]
    for values in zip(*columns, strict=True):
        if UNREADABLE in values:
            yield Content(flaw=f"{NOT_UTF8} (column {names[values.index(UNREADABLE)]!r})")
            continue
        try:
            text = fill_template(template, dict(zip(names, values, strict=True)))
        except InputError as error:
            yield Content(flaw=str(error))
        else:
            yield _written(text, most, flaw=None if text.strip() else "text is empty")


def _chats(column: pa.ChunkedArray, chat: Chat, only_assistant: bool, most: int) -> Iterator[Content]:
    for value in python_values(column):
        if value is UNREADABLE:
            yield Content(flaw=NOT_UTF8)
            continue
        try:
            messages = read_messages(value)
            if (size := sum(len(message.content) for message in messages)) > most:
                yield Content(flaw=_too_long("a chat", size, most))
                continue
            text, counted = chat.write(messages, only_assistant)
        except InputError as error:
            yield Content(flaw=str(error))
        else:
            flaw = "nothing in it is said by the assistant" if counted == () else None
            special = chat.has_special_tokens
            yield _written(text, most, flaw=flaw, counted=counted, has_special_tokens=special)


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


def _holds_images(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ExtensionType):  # the array features of `datasets`
        return _holds_images(kind.storage_type)
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    while _is_list(kind):
        kind = kind.value_type
    return _is_binary(kind) or bool(pa.types.is_integer(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_anything(kind: pa.DataType) -> bool:
    return True


KINDS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "text_column": (_is_text, "text"),
    "tokens_column": (_holds_token_ids, "lists of token ids (integers)"),
    "messages_column": (_holds_messages, "lists of {role, content} or {from, value}, both text"),
    "text_template": (_is_text_or_number, "text or numbers"),
    "image_column": (_holds_images, "images: bytes, {bytes, path}, or lists of integers"),
    "label_column": (pa.types.is_integer, "classes (integers)"),
    "columns": (_is_anything, "anything"),
}
