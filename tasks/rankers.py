"""Who ranks rows, and under which columns: the same unit of work, done in three ways.

| ranker | column | numbers |
|---|---|---|
| `EveryQuery` | a query | its scores |
| `OnePass` | a query | first-order changes of what the projection holds of its update: they choose rows, no more |
| `Grouped` | a group of queries | scores of their summed update: likewise |
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from finf_core.adjoint import row_changes
from finf_core.lexical import Overlap
from finf_core.ranking import RankedRows, rank_changes, rank_rows
from finf_core.scores import Others
from finf_core.scoring import BaseNats, score_rows
from finf_core.spec import RankSpec
from finf_core.strategy import group_queries
from finf_core.updates import MirroredUpdate
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.project_updates import read_projection
from tasks.queries import Query
from tasks.update_store import UpdateReader


class Ranker(Protocol):
    """Ranks the rows of a row group under each of its columns.

    `base` is what they cost the base model, if known; `overlap` the words that they share with each query, if compared.
    """

    @property
    def rank(self) -> RankSpec: ...

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def uses_base(self) -> bool: ...  # or makes its own, in a pass with gradients

    def rank_windows(
        self, rows: Sequence[Sequence[Any]], base: BaseNats | None = None, overlap: Overlap | None = None
    ) -> RankedRows: ...


class EveryQuery:
    """Every row is scored for every query."""

    uses_base = True

    def __init__(self, model: LoadedModel, job: ScanJob, queries: Sequence[Query], updates: UpdateReader) -> None:
        self.model, self.rank, self.direction = model, job.spec.rank, job.update.direction
        self.columns = [query.query_id for query in queries]
        self.queries, self.updates = queries, updates

    def rank_windows(
        self, rows: Sequence[Sequence[Any]], base: BaseNats | None = None, overlap: Overlap | None = None
    ) -> RankedRows:
        numbers: list[tuple[float, int]] = []  # filled while the updates stream by: each is read once
        losses = score_rows(self.model.adapter, rows, self._stream(numbers), self.model.batch_tokens, base=base)
        moved, num_targets = zip(*numbers, strict=True)
        return rank_rows(losses, np.array(moved), np.array(num_targets), self.direction, self.rank, overlap=overlap)

    def _stream(self, numbers: list[tuple[float, int]]) -> Iterator[MirroredUpdate]:
        for query in self.queries:
            update = self.updates.read(query.digest)
            numbers.append((update.moved_nats, update.num_targets))
            yield update


class OnePass:
    """All queries at once, by what was projected of their updates."""

    uses_base = False

    def __init__(self, model: LoadedModel, job: ScanJob, queries: Sequence[Query], updates: UpdateReader) -> None:
        self.model, self.rank = model, job.first_pass_rank
        self.columns = [query.query_id for query in queries]
        self.projection, self.moved_Q = read_projection(job)
        self.num_targets_Q = np.array([updates.numbers(query.digest)["num_targets"] for query in queries])

    def rank_windows(
        self, rows: Sequence[Sequence[Any]], base: BaseNats | None = None, overlap: Overlap | None = None
    ) -> RankedRows:
        changes = row_changes(self.model.adapter, rows, self.projection, self.model.gradient_batch_tokens)
        return rank_changes(changes, self.moved_Q, self.num_targets_Q, self.rank, overlap)


class Grouped:
    """One mirrored model for each group: all its queries' updates added up."""

    uses_base = True

    def __init__(self, model: LoadedModel, job: ScanJob, queries: Sequence[Query], updates: UpdateReader) -> None:
        self.model, self.rank, self.direction = model, job.first_pass_rank, job.update.direction
        self.groups = group_columns(job, queries)
        self.columns, self.updates = list(self.groups), updates
        self.position = {query.query_id: index for index, query in enumerate(queries)}

    def rank_windows(
        self, rows: Sequence[Sequence[Any]], base: BaseNats | None = None, overlap: Overlap | None = None
    ) -> RankedRows:
        numbers: list[tuple[float, int]] = []
        updates = self._group_updates(numbers)
        losses = score_rows(self.model.adapter, rows, updates, self.model.batch_tokens, base=base)
        moved, num_targets = zip(*numbers, strict=True)
        unknown_RG = np.full((len(rows), len(moved)), np.nan)  # no row's ratio for another single query is known
        others = Others(unknown_RG, unknown_RG)
        of_group = None if overlap is None else self._of_groups(overlap)
        return rank_rows(losses, np.array(moved), np.array(num_targets), self.direction, self.rank, others, of_group)

    def _of_groups(self, overlap: Overlap) -> Overlap:
        """The largest of each group's queries."""
        members = [[self.position[query.query_id] for query in group] for group in self.groups.values()]
        return Overlap(
            *(np.stack([np.fmax.reduce(each_RQ[:, some], axis=1) for some in members], 1) for each_RQ in overlap)
        )

    def _group_updates(self, numbers: list[tuple[float, int]]) -> Iterator[MirroredUpdate]:
        """Sums of updates, each with the mean of its queries' own numbers."""
        for group in self.groups.values():
            updates = [self.updates.read(query.digest) for query in group]
            moved = float(np.mean([update.moved_nats for update in updates]))
            num_targets = round(np.mean([update.num_targets for update in updates]))
            numbers.append((moved, num_targets))
            total: dict[str, Tensor] = {}
            for update in updates:
                for name, delta in update.deltas.items():
                    total[name] = total.get(name, 0) + delta
            yield replace(updates[0], deltas=total, num_targets=num_targets)


def group_columns(job: ScanJob, queries: Sequence[Query]) -> dict[str, list[Query]]:
    """Column of the first pass -> the queries that it stands for."""
    spec = job.first_pass
    if spec.kind == "one_pass":
        return {query.query_id: [query] for query in queries}
    groups = group_queries(queries, spec.group_size, spec.num_groupings, job.spec.update.seed)
    return {f"group {number}": group for number, group in enumerate(groups)}


def make_ranker(model: LoadedModel, job: ScanJob, queries: Sequence[Query], updates: UpdateReader) -> Ranker:
    if not job.has_first_pass:
        return EveryQuery(model, job, queries, updates)
    ranker = OnePass if job.first_pass.kind == "one_pass" else Grouped
    return ranker(model, job, queries, updates)
