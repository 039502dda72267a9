"""The worker: holds the model once, does one unit of work after the other, keeps nothing.

A plain class; `tasks.actor_pool` puts it on a Ray actor, tests call it directly.
Each method publishes its product in the store and returns a small receipt.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from finf_core.curvature import Curvature, curvature_from_tensors, refine_if_asked
from finf_core.errors import CapacityError
from finf_core.lexical import LexicalIndex
from finf_core.memory import capacity_errors, release_memory
from finf_core.precision import widen
from finf_core.scores import Floats, Ints
from finf_core.spec import WITHOUT_CURVATURE
from finf_core.strategy import Strategy
from finf_core.top_k import merge_top
from tasks.bad_rows import Skipped, skip_row
from tasks.base_losses import BaseEntry, base_uri, join_entries, publish_base, read_base
from tasks.bundles import Bundle
from tasks.candidates import candidates_table
from tasks.check_model import ModelCheck, check_model_on_rows
from tasks.check_precision import PrecisionCheck, check_precision_on_rows, read_precision_check
from tasks.choose_strategy import choose_on_rows
from tasks.corpus import CorpusRow, Unit
from tasks.count_words import count_on_sample, lexical_index
from tasks.curvature_store import CurvatureCost, read_curvature
from tasks.explain import explain_bundle
from tasks.fit_curvature import fit_on_corpus, sample_rows
from tasks.job import ScanJob
from tasks.judge_labels import judge_labels_of_unit
from tasks.load_model import load_model
from tasks.loaded_model import LoadedModel
from tasks.measure_memory import measure_groups, measure_unit
from tasks.project_updates import project_on_actor
from tasks.queries import Query, read_queries
from tasks.query_sets import Share, job_of_set, queries_of_set
from tasks.rankers import Ranker, make_ranker
from tasks.read_ahead import read_ahead
from tasks.rescore import rescore_bundle
from tasks.row_groups import GROUPS_AHEAD, RowGroup, prepare_row_groups
from tasks.settle import settle
from tasks.solve_updates import solve_one_update
from tasks.unit_result import UnitReceipt, publish_unit
from tasks.update_store import UpdateReader

T = TypeVar("T")


class Asked(NamedTuple):
    """A set of queries, ready to be asked of any rows."""

    ranker: Ranker
    lexical: LexicalIndex | None


class ShardScorer:
    """Everything that needs the model: the check, the factors, the updates and the scores."""

    def __init__(self, job: ScanJob) -> None:
        self.job = job
        self.asked: dict[tuple[str, int], Asked] = {}  # by the digest of the set and the tokens of a batch
        self.halvings = 0  # of the batches, since memory was short
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the cores are torch's
        self.model = load_model(job.spec.model, job.spec.corpus, job.batch_tokens, job.compiled)

    def ping(self) -> str:
        return "ready"

    def check_model(self, unit: Unit) -> ModelCheck:
        return check_model_on_rows(self.model, self.job, unit)

    def fit_curvature(self, job: ScanJob) -> CurvatureCost:
        return self._in_memory(lambda model: fit_on_corpus(model, job))

    def count_words(self, job: ScanJob) -> None:
        count_on_sample(self.model, job)

    def check_precision(self, unit: Unit) -> PrecisionCheck:
        return check_precision_on_rows(self.model, self.curvature, self.job, unit)

    def choose_strategy(self, unit: Unit) -> Strategy:
        return choose_on_rows(self.model, replace(self.job, precision=read_precision_check(self.job).precision), unit)

    def project_updates(self, job: ScanJob) -> None:
        project_on_actor(self.model, job, self.queries, self.updates)

    def solve_update(self, query: Query) -> None:
        solve_one_update(self.model, self.curvature, self.settled, query)

    @cached_property
    def curvature(self) -> Curvature | None:
        update = self.job.spec.update
        if update.kind in WITHOUT_CURVATURE:
            return None
        fitted = curvature_from_tensors(update, read_curvature(self.job.curvature_uri))
        rows = sample_rows(self.model, self.job, update.refine_rows) if update.refine_steps else []
        return refine_if_asked(self.model.adapter, rows, update, fitted, self.model.gradient_batch_tokens)

    @cached_property
    def settled(self) -> ScanJob:
        """The job with its precision, which is chosen before any query is solved or row scored."""
        job = settle(self.job)
        if job.precision is not None and job.precision.dtype == "float32":
            widen(self.model.adapter.module)
        return job

    @cached_property
    def updates(self) -> UpdateReader:
        return UpdateReader(self.settled.updates_uri)

    @cached_property
    def queries(self) -> list[Query]:
        return read_queries(self.job.queries_uri)

    def _asked(self, model: LoadedModel, set_digest: str) -> Asked:
        key = set_digest, model.batch_tokens
        if key not in self.asked:
            queries = queries_of_set(self.settled, self.queries, set_digest)
            ranker = make_ranker(model, self.settled, queries, self.updates)
            self.asked[key] = Asked(ranker, lexical_index(self.job, queries))
        return self.asked[key]

    def rescore(self, bundle: Bundle) -> None:
        self._in_memory(lambda model: rescore_bundle(model, self.settled, bundle, self.updates))

    def explain(self, bundle: Bundle) -> None:
        self._in_memory(lambda model: explain_bundle(model, self.settled, bundle, self.updates))

    def judge_labels(self, unit: Unit) -> int:
        return self._in_memory(lambda model: judge_labels_of_unit(model, self.settled, unit))

    def measure_rows(self, unit: Unit) -> int:
        return self._in_memory(lambda model: measure_unit(model, self.curvature, self.job, unit))

    def measure_groups(self, bundle: Bundle) -> None:
        self._in_memory(lambda model: measure_groups(model, self.curvature, self.job, bundle))

    def score(self, unit: Unit) -> UnitReceipt:
        """All queries of the run on a unit."""
        return self.score_share(Share(unit, self.settled.set_digest))

    def score_share(self, share: Share) -> UnitReceipt:
        """Rank every row of a unit for a set of queries; publish its base losses, the best rows and the histogram.

        Where memory is short, the unit is done anew with batches half as large, as all later ones are.

        Raises:
            CapacityError: one window at a time is too much.
        """
        return self._in_memory(lambda model: self._score_share(model, share), share.halvings)

    def _in_memory(self, work: Callable[[LoadedModel], T], halvings: int = 0) -> T:
        """Have work done with the model, in batches that fit."""
        while True:
            model = self.model.with_halved_batches(max(self.halvings, halvings))
            try:
                with capacity_errors(f"working on batches of {model.batch_tokens} tokens"):
                    return work(model)
            except CapacityError:
                if model.batch_tokens <= self.model.context_tokens:
                    raise
            self.halvings = max(self.halvings, halvings) + 1
            self.asked.clear()
            release_memory()

    def _score_share(self, model: LoadedModel, share: Share) -> UnitReceipt:
        started, unit, asked = time.monotonic(), share.unit, self._asked(model, share.set_digest)
        ranker = asked.ranker
        uri = base_uri(model, self.settled, unit, with_gradients=not ranker.uses_base)
        cached = read_base(uri) if ranker.uses_base or self.job.cache_tokens else None
        row_groups = prepare_row_groups(model, self.settled, unit, cached, asked.lexical)
        with read_ahead(row_groups, GROUPS_AHEAD) as groups:
            blocks = [self._rank_row_group(ranker, unit.shard, group) for group in groups]
        tables, counts, receipts, entries, ratios = zip(*blocks, strict=True)
        entry = join_entries(entries)
        if cached is None or not cached.holds(entry):
            publish_base(uri, entry)  # before the scores: a finished unit has its base losses
        receipt = UnitReceipt.total(receipts, time.monotonic() - started)
        uri = job_of_set(self.settled, share.set_digest).score_uri(unit)
        best, ratio_RQ = merge_top(tables, ranker.rank), None
        if not self.settled.is_one_set:
            ratio_RQ = np.full((unit.num_rows, len(ranker.columns)), np.nan)
            ratio_RQ[entry.row - unit.first_row] = np.concatenate(ratios)
        publish_unit(uri, ranker.columns, best, sum(counts), receipt, ratio_RQ)
        return receipt

    def _rank_row_group(
        self, ranker: Ranker, shard: str, group: RowGroup
    ) -> tuple[pa.Table, Ints, UnitReceipt, BaseEntry, Floats]:
        ranked = ranker.rank_windows(group.windows, group.base, group.overlap)
        skipped = group.skipped + self._unscored(shard, group.good, ranked.num_targets_R, ranked.not_finite)
        shards = [shard] * len(group.good)
        table = candidates_table(
            shards,
            group.good,
            ranked,
            ranker.columns,
            self.model.tokenizer,
            with_excerpts=not self.settled.has_first_pass,  # then the rows that are kept are read again
        )
        receipt = UnitReceipt(group.num_rows, group.num_tokens, int(ranked.num_targets_R.sum()), 0.0, tuple(skipped))
        corpus = self.job.spec.corpus
        with_tokens = self.job.cache_tokens and corpus.is_text and corpus.tokens_column is None
        with_tokens = with_tokens and corpus.loss_on == "all"
        return table, ranked.counts_QK, receipt, group.base_entry(ranked, with_tokens), ranked.row_ratio_RQ

    def _unscored(self, shard: str, rows: Sequence[CorpusRow], num_targets_R: Ints, not_finite: Ints) -> list[Skipped]:
        """Rows with text but without a score: nothing to predict, or a loss that is NaN or infinite."""
        corpus = self.job.spec.corpus
        reason = (
            "one token: nothing to predict" if corpus.loss_on == "all" else "no token that counts: nothing to predict"
        )
        empty = [skip_row(shard, rows[i].row, reason, corpus) for i in np.flatnonzero(num_targets_R == 0).tolist()]
        return empty + [(shard, rows[i].row, "loss is not finite") for i in not_finite.tolist()]
