"""Queries: test items from Parquet, JSON lines or a `datasets` name."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from finf_core.chat import Chat, read_messages, split_answer
from finf_core.choices import choice_columns
from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import QueriesSpec
from finf_core.template import fill_template, template_columns, value_at
from tasks import storage
from tasks.items import ItemReader, describe_item, item_columns, pack_item
from tasks.python_values import UNREADABLE
from tasks.query_files import read_json_rows, read_parquet_rows

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("context", pa.string()),
        ("target", pa.string()),
        ("is_control", pa.bool_()),
        ("has_special_tokens", pa.bool_()),
        ("items", pa.list_(pa.large_binary())),
        ("facts", pa.list_(pa.string())),
    ]
)
EXCERPT_CHARACTERS = 1000  # of context and of target
PARQUET, JSON = ".parquet", (".jsonl", ".json")


@dataclass(frozen=True)
class Query:
    query_id: str
    context: str  # read, not scored
    target: str  # its loss moves the model
    is_control: bool = False  # known to be clean: what the others are judged by
    has_special_tokens: bool = False  # those that belong there: the tokenizer adds none
    items: tuple[bytes, ...] = ()  # in place of text: one item, or a group of them (tasks.items); `target` describes it
    facts: tuple[str, ...] = ()  # what it asks for, where the config names a column that says so (truth.column)

    @property
    def digest(self) -> str:
        """Of the content alone: the same item under another id is the same work."""
        text = [self.context, self.target, self.has_special_tokens]
        return fingerprint([*text, list(self.items)] if self.items else text)


def load_queries(
    spec: QueriesSpec, chat: Chat | None = None, reader: ItemReader | None = None, fact_column: str | None = None
) -> list[Query]:
    """Read and fill the templates; controls, if there are any, come last, under ids of their own.

    Args:
        chat: how chats become text; queries that are chats need it.
        reader: of items, where queries are not text.
        fact_column: of texts: the column that says which facts they ask for.

    Raises:
        InputError: nothing to read, a missing column, an empty target or a repeated id; names the row.
    """
    queries = _load(spec, chat, reader, fact_column)
    if spec.controls is None:
        return queries
    loaded = _load(replace(spec, path=spec.controls, limit=None), chat, reader)
    controls = [replace(each, query_id=f"control:{each.query_id}", is_control=True) for each in loaded]
    known, ids = {query.digest: query.query_id for query in queries}, {query.query_id for query in queries}
    for control in controls:
        if control.digest in known:
            same = f"{control.query_id!r} is the same item as {known[control.digest]!r}"
            raise InputError(f"{spec.controls}: {same}; remove it from the controls")
        if control.query_id in ids:
            raise InputError(f"{spec.path}: the id {control.query_id!r} is that of a control; rename the query")
        known[control.digest] = control.query_id
    return queries + controls


def _load(
    spec: QueriesSpec, chat: Chat | None, reader: ItemReader | None, fact_column: str | None = None
) -> list[Query]:
    queries: list[Query] = []
    rows_of_id: dict[str, int] = {}
    for index, row in enumerate(_rows(spec, reader, fact_column)):
        if spec.limit is not None and index >= spec.limit:
            break
        query = _query(spec, index, row, chat, fact_column) if reader is None else _item_query(spec, index, row, reader)
        if query.query_id in rows_of_id and spec.group_column is not None:
            place = [other.query_id for other in queries].index(query.query_id)
            queries[place] = _joined(queries[place], query)
            continue
        if query.query_id in rows_of_id:
            first = rows_of_id[query.query_id]
            raise InputError(f"{spec.path}: rows {first} and {index} have the same id {query.query_id!r}")
        rows_of_id[query.query_id] = index
        queries.append(query)
    if not queries:
        raise InputError(f"{spec.path}: no queries in it")
    return queries


class QueryExcerpt(NamedTuple):
    """What a report shows of a query."""

    text: str
    context_characters: int  # how many of them are context: read, not scored


def query_excerpt(query: Query) -> QueryExcerpt:
    """The end of its context and the beginning of its target."""
    context, target = query.context[-EXCERPT_CHARACTERS:], query.target[:EXCERPT_CHARACTERS]
    return QueryExcerpt(context + target, len(context))


def queries_table(queries: Sequence[Query]) -> pa.Table:
    return pa.Table.from_pylist([asdict(query) for query in queries], SCHEMA)


def read_queries(uri: str) -> list[Query]:
    """What `queries_table` made, from the store."""
    return [
        Query(**row | {"items": tuple(row["items"]), "facts": tuple(row["facts"])})
        for row in storage.read_table(uri).to_pylist()
    ]


def _query(spec: QueriesSpec, index: int, row: dict[str, Any], chat: Chat | None, fact_column: str | None) -> Query:
    try:
        facts = () if fact_column is None else facts_of(value_at(row, fact_column))
        context, target = _context_and_target(spec, row, chat)
        query_id = fill_template("{" + spec.id_column + "}", row) if spec.id_column else str(index)
    except InputError as error:
        raise InputError(f"{spec.path}: row {index}: {error}") from error
    for what, text in (("id", query_id), ("context", context), ("target", target)):
        if (place := _surrogate(text)) is not None:
            raise InputError(f"{spec.path}: row {index}: the {what} holds half a character ({text[place]!a}): no UTF-8")
    if not target.strip():
        raise InputError(f"{spec.path}: row {index}: the target {spec.messages_column or spec.target!r} is empty")
    has_special_tokens = spec.messages_column is not None and chat is not None and chat.has_special_tokens
    return Query(query_id, context, target, has_special_tokens=has_special_tokens, facts=facts)


def facts_of(value: Any) -> tuple[str, ...]:
    """The facts that a value names: itself, or each of a list; none where it is null or cannot be read."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(each) for each in values if each is not None and each is not UNREADABLE)


def _item_query(spec: QueriesSpec, index: int, row: dict[str, Any], reader: ItemReader) -> Query:
    name = spec.group_column or spec.id_column
    try:
        query_id = fill_template("{" + name + "}", row) if name else str(index)
        item = reader.read_row(row)
        return Query(query_id, "", describe_item(item), items=(pack_item(item),))
    except InputError as error:
        raise InputError(f"{spec.path}: row {index}: {error}") from error


def _joined(group: Query, query: Query) -> Query:
    """A group and one more item of it; only what all have in common describes it."""
    target = group.target if group.target == query.target else ""
    return replace(group, target=target, items=group.items + query.items)


def _surrogate(text: str) -> int | None:
    """Where half of a UTF-16 character stands, as JSON may spell it (`\\ud800`); such text cannot be stored."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _context_and_target(spec: QueriesSpec, row: dict[str, Any], chat: Chat | None) -> tuple[str, str]:
    if spec.messages_column is not None:
        if chat is None:
            raise InputError(f"queries.messages_column = {spec.messages_column!r}: chats need a chat template")
        return split_answer(chat, read_messages(value_at(row, spec.messages_column)))
    if spec.choices_column is not None and spec.answer_column is not None:
        row = row | choice_columns(row, spec.choices_column, spec.answer_column)
    return fill_template(spec.context, row), fill_template(spec.target, row)


def _rows(spec: QueriesSpec, reader: ItemReader | None, fact_column: str | None) -> Iterator[dict[str, Any]]:
    columns = [
        *_columns(spec, reader),
        *filter(None, [fact_column]),
    ]  # a bad template is refused before anything is read
    suffix = "." + spec.path.rsplit(".", 1)[-1]
    if suffix not in (PARQUET, *JSON):
        yield from _stream(spec.path)
        return
    for item in storage.list_objects(spec.path):
        yield from read_parquet_rows(item, columns) if suffix == PARQUET else read_json_rows(item)


def _columns(spec: QueriesSpec, reader: ItemReader | None) -> list[str]:
    """The columns that a query is made of."""
    if reader is not None:
        return [*item_columns(reader.corpus), *filter(None, (spec.id_column, spec.group_column))]
    named = [spec.messages_column, spec.choices_column, spec.answer_column, spec.id_column]
    made = {"choices", "answer", "answer_label"} if spec.choices_column else set()
    templates = [] if spec.messages_column else template_columns(spec.context + spec.target)
    return [*filter(None, named), *(column for column in templates if column not in made)]


def _stream(name: str) -> Iterator[dict[str, Any]]:
    """Streaming keeps no copy in the library's own cache, so a changed data set is always read anew."""
    import datasets  # with pandas half a second, which other runs need not wait for

    try:
        yield from datasets.load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{name}: cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error
