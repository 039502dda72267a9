"""A resolved scan: the spec, the digests of what it reads, and where each of its products lies in the store.

<store>/scan-<name>-<fingerprint>/   the run: spec.json, shards, queries, top, report
<store>/cache/curvature-<…>/         shared by every run of the same model and corpus sample
<store>/cache/words-<…>/             how common words are in that sample
<store>/cache/updates-<…>/           one object per query
<store>/cache/base-<…>/              one object per unit of work: its base losses, shared by runs
<store>/cache/sets-<…>/              which queries were scored together (tasks.query_sets)
<store>/cache/scores-<…>/            one object per unit of work, of one set of queries; listing it tells what is done
<store>/cache/kept-<…>/              where that was a first pass: each query on the rows it keeps, by bundles of queries
<store>/cache/evidence-<…>/          what the report shows of the best rows, likewise
<store>/cache/memory-<…>/            likewise: the self-influence of its rows (tasks.measure_memory)
<store>/cache/groups-<…>/            and that of groups of near-duplicates
<store>/cache/labels-<…>/            one object per unit of work: what the model makes of labels (tasks.judge_labels)
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from finf_core.fingerprint import fingerprint, short
from finf_core.precision import Precision
from finf_core.spec import SCORING_VERSION, WITHOUT_CURVATURE, RankSpec, ScanSpec, StrategySpec, UpdateSpec
from finf_core.strategy import BLOCK_SHARE
from tasks.corpus import Unit
from tasks.storage import join


@dataclass(frozen=True, kw_only=True)
class ScanJob:
    spec: ScanSpec
    store: str
    batch_tokens: int | None  # a run option that the actors need; in no fingerprint
    compiled: bool | None = None  # likewise
    cache_tokens: bool = False  # likewise
    model_digest: str
    shards_digest: str
    queries_digest: str
    set_digest: str = ""  # of the queries' texts alone (tasks.query_sets): what units are named by
    sample_digest: str | None = None  # of corpus.sample
    optimizer_digest: str | None = None  # of update.optimizer_state
    truth_digest: str | None = None  # of truth.path
    precision: Precision | None = None  # chosen before scoring (tasks.check_precision); not part of the run's identity
    strategy: StrategySpec | None = None  # likewise (tasks.choose_strategy); its kind is not "auto"

    @property
    def fingerprint(self) -> str:
        inputs = [self.model_digest, self.shards_digest, self.queries_digest, self.sample_digest, self.optimizer_digest]
        return fingerprint([SCORING_VERSION, self.spec, [*inputs, self.truth_digest]])

    @property
    def update(self) -> UpdateSpec:
        """The update as it is solved: what the spec asks for, at the precision that was chosen."""
        return self.spec.update if self.precision is None else self.precision.apply(self.spec.update)

    @property
    def curvature_fingerprint(self) -> str:
        update = self.spec.update
        if update.optimizer_state is not None:
            return fingerprint([SCORING_VERSION, self._model(), update.moves, self.optimizer_digest])
        sample = [update.curvature_rows, update.curvature_labels, update.seed, self._sample(), self._corpus()]
        return fingerprint([SCORING_VERSION, self._model(), update.kind, update.moves, update.embeddings, sample])

    @property
    def words_fingerprint(self) -> str:
        key, _ = self.spec.corpus.content
        text_by = self._model() if key in ("tokens_column", "messages_column") else None  # its tokenizer, its template
        return fingerprint([SCORING_VERSION, self.spec.update.seed, self._sample(), self._corpus(), text_by])

    @property
    def updates_fingerprint(self) -> str:
        update = asdict(self.update)
        del update["least_signal"], update["optimizer_state"]  # a threshold; a place, whose content has its own digest
        curvature = None if self.update.kind in WITHOUT_CURVATURE else self.curvature_fingerprint
        dtype = None if self.precision is None else self.precision.dtype
        return fingerprint([SCORING_VERSION, self._model(), update, dtype, curvature])

    def base_fingerprint(self, batch_tokens: int, arithmetic: str) -> str:
        """Of the base losses of any unit, under the batch plan and the arithmetic in force. Queries do not matter."""
        columns = [*self.spec.corpus.content, self.spec.corpus.loss_on]
        dtype = None if self.precision is None else self.precision.dtype
        return fingerprint([SCORING_VERSION, self._model(), dtype, columns, batch_tokens, arithmetic])

    def base_uri(self, unit: Unit, batch_tokens: int, arithmetic: str) -> str:
        base = self.base_fingerprint(batch_tokens, arithmetic)
        return join(self.store, "cache", f"base-{short(base)}", unit.name(base))

    @property
    def scores_fingerprint(self) -> str:
        parts = [self.sets_fingerprint, self.queries_digest if self.is_one_set else self.set_digest]
        return fingerprint([*parts, self.strategy] if self.has_first_pass else parts)

    @property
    def sets_fingerprint(self) -> str:
        """Of whatever the scores of a set of queries depend on beside the set."""
        words = self.words_fingerprint if self.spec.rank.lexical_k else None
        return fingerprint([self.updates_fingerprint, self.spec.rank, self._corpus(), words])

    @property
    def is_one_set(self) -> bool:
        """Whether a row is kept for one query by what it is for all others, so that none can be scored without them."""
        return self.has_first_pass or self.spec.rank.by == "control_z"

    @property
    def has_first_pass(self) -> bool:
        """Whether single queries are scored on some rows only: those that a first pass over the corpus keeps."""
        return self.strategy is not None and self.strategy.kind != "every_query"

    @property
    def first_pass(self) -> StrategySpec:
        """How the first pass is made, of a job that has one."""
        return self.spec.strategy if self.strategy is None else self.strategy

    @property
    def first_pass_rank(self) -> RankSpec:
        """What the first pass keeps: by the best block of a row, where copies stand out, fewer than by `rank.by`."""
        kept = self.first_pass.rescored_rows or self.spec.rank.top_k
        opponents = kept if self.spec.rank.opponents_k else 0
        return replace(self.spec.rank, top_k=kept, opponents_k=opponents, mirror_k=math.ceil(kept * BLOCK_SHARE))

    @property
    def kept_fingerprint(self) -> str:
        """Of single queries' scores on the rows that the first pass keeps."""
        return fingerprint(["kept", self.scores_fingerprint])

    @property
    def run_uri(self) -> str:
        return join(self.store, f"{self.spec.kind}-{self.spec.name}-{short(self.fingerprint)}")

    @property
    def curvature_uri(self) -> str:
        return join(self.store, "cache", f"curvature-{short(self.curvature_fingerprint)}")

    @property
    def words_uri(self) -> str:
        return join(self.store, "cache", f"words-{short(self.words_fingerprint)}", "words.parquet")

    @property
    def updates_uri(self) -> str:
        return join(self.store, "cache", f"updates-{short(self.updates_fingerprint)}")

    @property
    def sets_uri(self) -> str:
        return join(self.store, "cache", f"sets-{short(self.sets_fingerprint)}")

    @property
    def scores_uri(self) -> str:
        return join(self.store, "cache", f"scores-{short(self.scores_fingerprint)}")

    @property
    def kept_uri(self) -> str:
        return join(self.store, "cache", f"kept-{short(self.kept_fingerprint)}")

    @property
    def evidence_fingerprint(self) -> str:
        """Of what is shown of listed rows."""
        shown = [self.queries_digest, self.spec.corpus.labels, self.spec.verdict.shared_from]
        return fingerprint(["evidence", self.scores_fingerprint, *shown])

    @property
    def evidence_uri(self) -> str:
        return join(self.store, "cache", f"evidence-{short(self.evidence_fingerprint)}")

    @property
    def labels_fingerprint(self) -> str:
        """Of what the model makes of the rows' labels."""
        dtype = None if self.precision is None else self.precision.dtype
        return fingerprint([SCORING_VERSION, "labels", self._model(), dtype, self._corpus()])

    @property
    def labels_uri(self) -> str:
        return join(self.store, "cache", f"labels-{short(self.labels_fingerprint)}")

    @property
    def memory_fingerprint(self) -> str:
        """Of the rows' self-influence. Neither the size of a step nor how changes are taken matters to it."""
        update, rank = self.spec.update, self.spec.rank
        fitted = None if update.kind in WITHOUT_CURVATURE else self.curvature_fingerprint
        of_update = [update.kind, update.moves, update.damping, update.refine_steps, update.refine_rows]
        parts = [self._model(), of_update, fitted, self._corpus(), rank.ngram_words]
        return fingerprint([SCORING_VERSION, "memory", *parts])

    @property
    def memory_uri(self) -> str:
        return join(self.store, "cache", f"memory-{short(self.memory_fingerprint)}")

    @property
    def groups_uri(self) -> str:
        """Rows of each group of near-duplicates."""
        return self.file("groups.parquet")

    @property
    def group_memory_uri(self) -> str:
        return join(self.store, "cache", f"groups-{short(self.memory_fingerprint)}")

    @property
    def memorized_uri(self) -> str:
        """Every row, the largest self-influence first."""
        return self.file("memorized.parquet")

    @property
    def projection_uri(self) -> str:
        return join(self.scores_uri, "projection.safetensors")

    @property
    def shards_uri(self) -> str:
        return self.file("shards.parquet")

    @property
    def sample_uri(self) -> str:
        """The shards of `corpus.sample`, or of the corpus."""
        return self.shards_uri if self.sample_digest is None else self.file("sample.parquet")

    @property
    def queries_uri(self) -> str:
        return self.file("queries_in.parquet")

    @property
    def model_check_uri(self) -> str:
        return self.file("model_check.json")

    @property
    def precision_uri(self) -> str:
        return self.file("precision.json")

    @property
    def strategy_uri(self) -> str:
        return self.file("strategy.json")

    @property
    def candidates_uri(self) -> str:
        """Rows that the first pass keeps for each query."""
        return self.file("candidates.parquet")

    @property
    def shown_uri(self) -> str:
        """Listed rows that the report shows the words of."""
        return self.file("shown.parquet")

    @property
    def suspects_uri(self) -> str:
        """Every row, the most harmful first."""
        return self.file("suspects.parquet")

    @property
    def truth_uri(self) -> str:
        """Which rows are known to be true for which query."""
        return self.file("truth.parquet")

    @property
    def spending_uri(self) -> str:
        """A folder: what each process that worked at this run has spent."""
        return self.file("spending")

    @property
    def totals_uri(self) -> str:
        return self.file("totals.json")

    def file(self, name: str) -> str:
        """An object in the run's folder."""
        return join(self.run_uri, name)

    def score_name(self, unit: Unit) -> str:
        return unit.name(self.scores_fingerprint)

    def score_uri(self, unit: Unit) -> str:
        return join(self.scores_uri, self.score_name(unit))

    def _model(self) -> Any:
        return replace(self.spec.model, path=self.model_digest, digest=None)  # what it holds, not where it lies

    def _sample(self) -> str:
        return self.shards_digest if self.sample_digest is None else self.sample_digest

    def _corpus(self) -> Any:
        """What scores depend on."""
        return replace(self.spec.corpus, path="", sample=None, source_column=None, date_column=None, label_names=())
