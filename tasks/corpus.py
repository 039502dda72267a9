"""The corpus: Parquet shards, cut into units of work that any actor may do at any time.

A unit is a range of row groups of one shard. Its name depends on the content (path, size, etag, row groups)
and on what is done to it, never on who does it: that is what makes a run resumable.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from finf_core.chat import Chat, Span
from finf_core.columns import take_column
from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import CorpusSpec
from finf_core.windows import TokenIds
from tasks import storage
from tasks.bounded_map import bounded_map
from tasks.guarded_parquet import parsing
from tasks.items import Item
from tasks.python_values import label_values
from tasks.row_contents import check_columns, content_columns, read_contents
from tasks.storage_errors import parquet_errors

UNIT_ROWS = 128  # a unit is cut after the row group that reaches this many rows
FOOTER_READERS = 16
FOOTERS_AHEAD = 256  # being read, or waiting for their turn
TABLE_ROWS = 4096  # of the record of the corpus, that become Python objects at a time


@dataclass(frozen=True, slots=True)  # slots: a corpus may have a million of them
class Shard:
    uri: str
    size_bytes: int
    etag: str
    group_rows: tuple[int, ...]  # rows of each row group

    @property
    def num_rows(self) -> int:
        return sum(self.group_rows)


@dataclass(frozen=True, slots=True)
class Unit:
    """Row groups `first_group` to `stop_group` (exclusive) of a shard."""

    shard: str
    size_bytes: int
    etag: str
    first_group: int
    stop_group: int
    first_row: int  # of the shard
    num_rows: int

    def name(self, scoring_fingerprint: str) -> str:
        """The file that holds this unit's result."""
        return f"{fingerprint([scoring_fingerprint, self])}.parquet"


@dataclass(frozen=True)
class CorpusRow:
    row: int  # within the shard
    document_id: str  # "" where it is null
    text: str | None  # as the model reads it: templates filled, chats written out
    token_ids: TokenIds | None = None  # of a pre-tokenised corpus, which has no text
    flaw: str | None = None  # why it cannot be scored
    counted: tuple[Span, ...] | None = None  # characters that count in the loss; None: all
    has_special_tokens: bool = False  # those that belong there: the tokenizer adds none
    item: Item | None = None  # in place of text and tokens
    source: str | None = None
    date: str | None = None


def list_shards(corpus: CorpusSpec) -> list[Shard]:
    """Every shard with its row groups, from the footers alone.

    Raises:
        InputError: no shard, an unreadable or empty one, or a column that is missing or holds something else.
    """
    objects = storage.list_objects(corpus.path)
    return list(bounded_map(lambda item: _read_footer(item, corpus), objects, FOOTER_READERS, FOOTERS_AHEAD))


def shards_table(shards: Sequence[Shard]) -> pa.Table:
    """One row per shard, as the run's record of its corpus."""
    columns = ("uri", "size_bytes", "etag", "group_rows")
    return pa.table({name: [getattr(shard, name) for shard in shards] for name in columns})


def shards_from_table(table: pa.Table) -> Iterator[Shard]:
    """The shards of that record, one after the other; only some at a time are Python objects."""
    for batch in table.to_batches(TABLE_ROWS):
        for row in batch.to_pylist():
            yield Shard(**{**row, "group_rows": tuple(row["group_rows"])})


def plan_units(shards: Iterable[Shard]) -> Iterator[Unit]:
    """Consecutive row groups until `UNIT_ROWS` rows: a function of the shards alone."""
    for shard in shards:
        first_group = first_row = num_rows = 0
        for group, rows in enumerate(shard.group_rows):
            num_rows += rows
            if num_rows >= UNIT_ROWS or group == len(shard.group_rows) - 1:
                yield Unit(shard.uri, shard.size_bytes, shard.etag, first_group, group + 1, first_row, num_rows)
                first_group, first_row, num_rows = group + 1, first_row + num_rows, 0


def read_unit(unit: Unit, corpus: CorpusSpec, chat: Chat | None = None) -> Iterator[list[CorpusRow]]:
    """The rows of a unit, one row group at a time; null text comes as None. Only the columns needed are fetched.

    Args:
        chat: how chats become text; a corpus of chats needs it.
    """
    columns = list(dict.fromkeys([*content_columns(corpus), *corpus.labels.values()]))
    with storage.open_parquet(unit.shard) as file:
        first_row = unit.first_row
        for group in range(unit.first_group, unit.stop_group):
            table = storage.read_row_group(file, group, columns, unit.shard)
            with parquet_errors(unit.shard), parsing(unit.shard):
                rows = _rows(table, first_row, corpus, chat)
            yield rows
            first_row += len(table)


def _rows(table: pa.Table, first_row: int, corpus: CorpusSpec, chat: Chat | None) -> list[CorpusRow]:
    contents = read_contents(table, corpus, chat)
    labels = zip(*(_labels(table, name) for name in (corpus.source_column, corpus.date_column)), strict=True)
    names = _labels(table, corpus.id_column) if corpus.id_column else map(str, itertools.count(first_row))
    return [
        CorpusRow(first_row + index, name or "", *content, *label)
        for index, (name, content, label) in enumerate(zip(names, contents, labels, strict=False))
    ]


def _labels(table: pa.Table, column: str | None) -> list[str | None]:
    if column is None:
        return [None] * len(table)
    return list(label_values(take_column(table, column)))


def _read_footer(item: storage.StoredObject, corpus: CorpusSpec) -> Shard:
    with storage.open_parquet(item.uri) as file:
        check_columns(file.schema_arrow, corpus, item.uri)
        metadata = file.metadata
    group_rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if sum(group_rows) == 0 and corpus.on_bad_row == "fail":
        raise InputError(f'{item.uri}: the shard has no rows; remove it, or set corpus.on_bad_row = "skip"')
    return Shard(item.uri, item.size_bytes, item.etag, group_rows)
