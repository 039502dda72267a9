"""The corpus: Parquet shards, cut into units of work that any actor may do at any time.

A unit is a range of row groups of one shard. Its name depends on the content (path, size, etag, row groups)
and on what is done to it, never on who does it: that is what makes a run resumable.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import CorpusSpec
from tasks import storage

UNIT_ROWS = 128  # a unit is cut after the row group that reaches this many rows
FOOTER_READERS = 16


@dataclass(frozen=True)
class Shard:
    uri: str
    size_bytes: int
    etag: str
    group_rows: tuple[int, ...]  # rows of each row group

    @property
    def num_rows(self) -> int:
        return sum(self.group_rows)


@dataclass(frozen=True)
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


def list_shards(corpus: CorpusSpec) -> list[Shard]:
    """Every shard with its row groups, from the footers alone.

    Raises:
        InputError: no shard, an unreadable or empty one, or a column that is missing or not text.
    """
    objects = storage.list_objects(corpus.path)
    with ThreadPoolExecutor(FOOTER_READERS) as readers:
        return list(readers.map(lambda item: _read_footer(item, corpus), objects))


def shards_table(shards: Sequence[Shard]) -> pa.Table:
    """One row per shard, as the run's record of its corpus."""
    columns = ("uri", "size_bytes", "etag", "group_rows")
    return pa.table({name: [getattr(shard, name) for shard in shards] for name in columns})


def shards_from_table(table: pa.Table) -> list[Shard]:
    return [Shard(**{**row, "group_rows": tuple(row["group_rows"])}) for row in table.to_pylist()]


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
    """The rows of a unit, one row group at a time; null text comes as None."""
    columns = [corpus.text_column, *([corpus.id_column] if corpus.id_column else [])]
    with storage.open_parquet(unit.shard) as file:
        first_row = unit.first_row
        for group in range(unit.first_group, unit.stop_group):
            table = storage.read_row_group(file, group, columns, unit.shard)
            texts = table[corpus.text_column].cast(pa.large_string()).to_pylist()
            names = (
                table[corpus.id_column].to_pylist() if corpus.id_column else range(first_row, first_row + len(texts))
            )
            yield [
                CorpusRow(first_row + index, str(name), text)
                for index, (name, text) in enumerate(zip(names, texts, strict=True))
            ]
            first_row += len(texts)


def _read_footer(item: storage.StoredObject, corpus: CorpusSpec) -> Shard:
    with storage.open_parquet(item.uri) as file:
        _check_columns(file.schema_arrow, corpus, item.uri)
        metadata = file.metadata
    group_rows = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if sum(group_rows) == 0 and corpus.on_bad_row == "fail":
        raise InputError(f'{item.uri}: the shard has no rows; remove it, or set corpus.on_bad_row = "skip"')
    return Shard(item.uri, item.size_bytes, item.etag, group_rows)


def _check_columns(schema: pa.Schema, corpus: CorpusSpec, uri: str) -> None:
    for key, name in (("text_column", corpus.text_column), ("id_column", corpus.id_column)):
        if name is not None and name not in schema.names:
            raise InputError(f"{uri}: no column {name!r} (corpus.{key}); the columns are {', '.join(schema.names)}")
    kind = schema.field(corpus.text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{uri}: column {corpus.text_column!r} holds {kind}, not text")
