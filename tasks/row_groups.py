"""A unit's row groups as the model wants them, read and tokenised ahead of it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finf_core.lexical import LexicalIndex, Overlap
from finf_core.ranking import RankedRows
from finf_core.scoring import BaseNats
from finf_core.windows import TokenIds
from tasks.bad_rows import Skipped, sort_out_bad_rows
from tasks.base_losses import BaseEntry
from tasks.corpus import CorpusRow, Unit, read_unit
from tasks.encode import RowTokens, encode_corpus_rows, tokens_of, windows_of
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel, TextModel
from tasks.row_text import row_text

GROUPS_AHEAD = 2  # row groups that wait, ready, while one is scored


@dataclass(frozen=True)
class RowGroup:
    """The rows of one row group; `good` ones, which can be scored, with their windows."""

    num_rows: int
    good: list[CorpusRow]
    skipped: list[Skipped]
    token_ids: list[TokenIds]
    windows: list[list[Any]]
    base: BaseNats | None  # where it is cached
    overlap: Overlap | None  # with the queries' words, where they are compared

    @property
    def num_tokens(self) -> int:
        return sum(len(window) for row in self.windows for window in row)

    def base_entry(self, ranked: RankedRows, with_tokens: bool) -> BaseEntry:
        """What to keep for other runs of the base pass behind these ranks."""
        rows = np.array([row.row for row in self.good], dtype=np.int64)
        return BaseEntry(rows, ranked.num_targets_R, ranked.base.nats_N, self.token_ids if with_tokens else None)


def prepare_row_groups(
    model: LoadedModel,
    job: ScanJob,
    unit: Unit,
    cached: BaseEntry | None = None,
    lexical: LexicalIndex | None = None,
) -> Generator[RowGroup, None, None]:
    """Each row group of a unit, sorted out and cut into windows; to be run by `tasks.read_ahead`.

    Raises:
        InputError: a bad row where the config says to stop at one, or a token id outside the vocabulary.
    """
    for rows in read_unit(unit, job.spec.corpus, model.chat):
        good, skipped = sort_out_bad_rows(rows, unit.shard, job.spec.corpus)
        entry = None if cached is None else cached.of_rows(good)
        ids, windows, base = _encode(model, job, good, unit.shard, entry)
        overlap = None if lexical is None else lexical.overlap([row_text(row, model.tokenizer) for row in good])
        yield RowGroup(len(rows), good, skipped, ids, windows, base, overlap)


def _encode(
    model: LoadedModel, job: ScanJob, good: Sequence[CorpusRow], shard: str, entry: BaseEntry | None
) -> tuple[list[TokenIds], list[list[Any]], BaseNats | None]:
    """Token ids, windows and base losses, as far as the cache holds them; an entry that does not fit is not used."""
    if not isinstance(model, TextModel):
        items = encode_corpus_rows(model, job.spec.model, good, shard)
        return [], items, None if entry is None else entry.as_base(items)
    ids = None if entry is None else entry.token_ids
    tokens = tokens_of(model, good, shard) if ids is None else [RowTokens(each) for each in ids]
    windows = [windows_of(model, job.spec.model, *each) for each in tokens]
    base = None if entry is None else entry.as_base(windows)
    if entry is not None and base is None:
        return _encode(model, job, good, shard, None)
    return [each.ids for each in tokens], windows, base
