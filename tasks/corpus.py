"""The corpus: Parquet shards, cut into units of work that any actor may do at any time.

A unit is a range of row groups of one shard. Its name depends on the content (path, size, etag, row groups)
and on what is done to it, never on who does it: that is what makes a run resumable.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import CorpusSpec
from finf_core.windows import TokenIds
from tasks import storage
from tasks.bounded_map import bounded_map

UNIT_ROWS = 128  # a unit is cut after the row group that reaches this many rows
FOOTER_READERS = 16
FOOTERS_AHEAD = 256  # being read, or waiting for their turn
TABLE_ROWS = 4096  # of the record of the corpus, that become Python objects at a time

Content = tuple[str | None, TokenIds | None, str | None]  # text, token ids, flaw


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
    document_id: str
    text: str | None
    token_ids: TokenIds | None = None  # of a pre-tokenised corpus, which has no text
    flaw: str | None = None  # why it cannot be scored


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


def read_unit(unit: Unit, corpus: CorpusSpec) -> Iterator[list[CorpusRow]]:
    """The rows of a unit, one row group at a time; null text comes as None. Only the columns needed are fetched."""
    columns = [corpus.content_column, *([corpus.id_column] if corpus.id_column else [])]
    with storage.open_parquet(unit.shard) as file:
        first_row = unit.first_row
        for group in range(unit.first_group, unit.stop_group):
            table = storage.read_row_group(file, group, columns, unit.shard)
            contents = (
                _texts(table[corpus.text_column])
                if corpus.tokens_column is None
                else _token_lists(table[corpus.tokens_column])
            )
            names = table[corpus.id_column].to_pylist() if corpus.id_column else itertools.count(first_row)
            yield [
                CorpusRow(first_row + index, str(name), *content)
                for index, (name, content) in enumerate(zip(names, contents, strict=False))
            ]
            first_row += len(table)


def _texts(column: pa.ChunkedArray) -> Iterator[Content]:
    for text in column.cast(pa.large_string()).to_pylist():
        yield text, None, "text is null" if text is None else None if text.strip() else "text is empty"


def _token_lists(column: pa.ChunkedArray) -> Iterator[Content]:
    """Each list as an array of its own; ids outside the vocabulary are found where the model is known."""
    for chunk in column.cast(pa.large_list(pa.int64())).chunks:
        ids, offsets = np.array(chunk.values.fill_null(0)), chunk.offsets.to_numpy()
        is_null = chunk.values.is_null().to_numpy(zero_copy_only=False)
        for is_there, start, stop in zip(chunk.is_valid().to_pylist(), offsets[:-1], offsets[1:], strict=True):
            if not is_there or start == stop:
                yield None, None, "the list of tokens is empty" if is_there else "the list of tokens is null"
            else:
                yield None, ids[start:stop], "a token is null" if is_null[start:stop].any() else None


def _read_footer(item: storage.StoredObject, corpus: CorpusSpec) -> Shard:
    with storage.open_parquet(item.uri) as file:
        _check_columns(file.schema_arrow, corpus, item.uri)
        metadata = file.metadata
    group_rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if sum(group_rows) == 0 and corpus.on_bad_row == "fail":
        raise InputError(f'{item.uri}: the shard has no rows; remove it, or set corpus.on_bad_row = "skip"')
    return Shard(item.uri, item.size_bytes, item.etag, group_rows)


def _check_columns(schema: pa.Schema, corpus: CorpusSpec, uri: str) -> None:
    content_key = "text_column" if corpus.tokens_column is None else "tokens_column"
    for key, name in ((content_key, corpus.content_column), ("id_column", corpus.id_column)):
        if name is not None and name not in schema.names:
            raise InputError(f"{uri}: no column {name!r} (corpus.{key}); the columns are {', '.join(schema.names)}")
    kind = schema.field(corpus.content_column).type
    if corpus.tokens_column is not None:
        if not _holds_token_ids(kind):
            raise InputError(f"{uri}: column {corpus.tokens_column!r} holds {kind}, not lists of token ids (integers)")
        return
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{uri}: column {corpus.text_column!r} holds {kind}, not text")


def _holds_token_ids(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and bool(pa.types.is_integer(kind.value_type)) and kind.value_type != pa.uint64()
