"""The spec of a run: everything that could change a number, and nothing else.

How many actors, how large a batch, which addresses: those are run options
(`tasks.options`) and never part of a fingerprint.
"""

from dataclasses import dataclass, replace
from typing import Literal

from finf_core.errors import InputError
from finf_core.template import template_columns

SCORING_VERSION = 4  # raise it when a change moves any score: results of older versions are then not reused

UpdateKind = Literal["sgd", "adam", "diagonal", "kfac", "ekfac", "exact", "adam_moments"]
TEXT_COLUMN = "text"  # unless the config says otherwise
TARGET = "{text}"  # likewise, of a query
INSTEAD_OF_TEXT = ("tokens_column", "messages_column", "text_template", "image_column", "columns")
MAX_ROW_BYTES = 8_000_000  # tokenising takes up to 250 bytes for each, where each is a token: 2 GB
WITHOUT_CURVATURE = ("sgd", "adam")
Direction = Literal["ascent", "descent"]
Difference = Literal["forward", "central", "jvp"]
Labels = Literal["sampled", "data"]
OnBadRow = Literal["fail", "skip"]
ChatTemplate = Literal["tokenizer", "plain"]
LossOn = Literal["all", "assistant"]
StrategyKind = Literal["every_query", "grouped", "one_pass"]
# a leakage scan; proponents and opponents of each query; rows by harm to clean queries; rows by their own influence;
# rows behind the facts of a language model
RunKind = Literal["scan", "attribute", "mislabel", "memorize", "trace"]
ModelKind = Literal["causal_lm", "classifier", "diffusion", "own"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
MOST_TIMESTEPS = 1_000_000
OF_DIFFUSERS = 0.5  # mean and standard deviation that its denoisers are trained with: shades from -1 to 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _columns_of(template: str, key: str) -> list[str]:
    try:
        return template_columns(template)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ImagesSpec:
    """How an image becomes what the network reads: floats from 0 to 1, (channels, height, width)."""

    size: int | None = None  # height and width; None: as they are
    mean: tuple[float, ...] = ()  # of each channel, or of all: taken away,
    std: tuple[float, ...] = ()  # and this divided by

    def __post_init__(self) -> None:
        _require(self.size is None or self.size >= 1, "model.images.size must be at least 1")
        for name in ("mean", "std"):
            _require(len(getattr(self, name)) in (0, 1, 3), f"model.images.{name}: want one number, or one a channel")
        _require(all(value > 0 for value in self.std), "model.images.std must be positive")


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The noise that a denoiser was trained with, under the names of diffusers: `finf_core.noise_schedule`."""

    prediction_type: Prediction = "epsilon"
    train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        _require(
            1 <= self.train_timesteps <= MOST_TIMESTEPS,
            f"model.diffusion.schedule.train_timesteps must lie between 1 and {MOST_TIMESTEPS:,}",
        )
        _require(
            0 < self.beta_start <= self.beta_end < 1,
            "model.diffusion.schedule: want 0 < beta_start <= beta_end < 1",
        )


@dataclass(frozen=True, kw_only=True)
class DiffusionSpec:
    """What the loss of an image is taken over: `finf_core.diffusion`."""

    timesteps: int = 16  # spread over those of the training; each costs a forward pass
    seed: int = 0  # of the noise, which is the same for all images, before and after an update
    normalise: bool = False  # each timestep relative to its own error, so that none outweighs the others
    schedule: ScheduleSpec = ScheduleSpec()  # of a network of `factory`; a folder of diffusers has its own

    def __post_init__(self) -> None:
        _require(self.timesteps >= 1, "model.diffusion.timesteps must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A causal language model in a Hugging Face folder with safetensors, a denoiser in a folder of diffusers, or a
    network that your own code builds."""

    path: str
    kind: ModelKind = "causal_lm"  # classifier, diffusion: of images; own: a whole `finf_core.adapter.Adapter`
    factory: str | None = None  # "package.module:function", no arguments: your code, run because it is named here
    images: ImagesSpec = ImagesSpec()  # of a diffusion: from -1 to 1 unless said otherwise
    diffusion: DiffusionSpec = DiffusionSpec()
    digest: str | None = None  # sha256 over the folder's weights, config and tokenizer; checked when given
    context_tokens: int | None = None  # longest window; None: the model's own maximum
    overlap_tokens: int = 64  # tokens of left context that a further window of a long row sees again
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat_template: ChatTemplate = "tokenizer"  # how chats become text: the tokenizer's own, or finf_core.chat.PlainChat

    def __post_init__(self) -> None:
        _require(self.context_tokens is None or self.context_tokens >= 2, "model.context_tokens must be at least 2")
        _require(self.overlap_tokens >= 0, "model.overlap_tokens must not be negative")
        _require(
            self.kind == "diffusion" or (self.kind == "causal_lm") == (self.factory is None),
            "model.factory (module:function) goes with the kinds 'classifier' and 'own', and may with 'diffusion'",
        )
        self._check_diffusion()
        module, _, function = (self.factory or "a:b").partition(":")
        _require(
            all(part.isidentifier() for part in (*module.split("."), function)),
            f"model.factory = {self.factory!r}: want package.module:function",
        )

    def _check_diffusion(self) -> None:
        _require(
            self.kind == "diffusion" or self.diffusion == DiffusionSpec(),
            "model.diffusion goes with model.kind = 'diffusion'",
        )
        _require(
            self.factory is not None or self.diffusion.schedule == ScheduleSpec(),
            "model.diffusion.schedule goes with model.factory: a folder of diffusers has a schedule of its own",
        )
        if self.kind == "diffusion" and not (self.images.mean or self.images.std):
            shades = replace(self.images, mean=(OF_DIFFUSERS,), std=(OF_DIFFUSERS,))
            object.__setattr__(self, "images", shades)

    @property
    def reads_text(self) -> bool:
        return self.kind == "causal_lm"


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Parquet shards: one object, a folder, or a pattern such as `s3://bucket/corpus/*.parquet`."""

    path: str
    sample: str | None = None  # shards that curvature, precision and strategy are taken on; None: the corpus
    text_column: str = TEXT_COLUMN  # columns may be fields of structs: "meta.text"
    tokens_column: str | None = None  # lists of token ids instead of text: taken as they are, special tokens included
    messages_column: str | None = None  # chats instead of text: lists of {role, content} or {from, value}
    text_template: str | None = None  # text from several columns: "{question}\n{answer}"
    image_column: str | None = None  # images instead of text: encoded (bytes, or {bytes, path}), or arrays of 0 to 255
    image_mode: Literal["RGB", "L"] = "RGB"  # read as three channels, or as one of grey
    label_column: str | None = None  # their classes, from 0
    label_names: tuple[str, ...] = ()  # what a report calls the classes, in order
    columns: tuple[str, ...] = ()  # for a model of kind "own": what its `collate` is given of each row
    loss_on: LossOn = "all"  # of chats: every token counts, or only what the assistant says
    id_column: str | None = None
    source_column: str | None = None  # where a row comes from: leaks are counted by it
    date_column: str | None = None  # from when
    on_bad_row: OnBadRow = "fail"  # null or empty text or tokens: stop and name it, or skip, count and name it
    max_row_bytes: int = MAX_ROW_BYTES  # of its text in UTF-8, or of its token ids, 8 each; a longer row is a bad one

    def __post_init__(self) -> None:
        _require(self.max_row_bytes >= 1, "corpus.max_row_bytes must be at least 1")
        keys = [key for key in INSTEAD_OF_TEXT if getattr(self, key)]
        keys += [] if self.text_column == TEXT_COLUMN else ["text_column"]
        _require(len(keys) <= 1, f"corpus.{' and corpus.'.join(keys)}: give one of the two")
        _require(
            self.loss_on == "all" or self.messages_column is not None,
            "corpus.loss_on = 'assistant' goes with corpus.messages_column",
        )
        _require(
            not self.label_names or self.label_column is not None, "corpus.label_names goes with corpus.label_column"
        )
        _require(
            self.text_template is None or bool(_columns_of(self.text_template, "corpus.text_template")),
            f"corpus.text_template: {self.text_template!r} names no column; write them in braces: {{question}}",
        )

    @property
    def labels(self) -> dict[str, str]:
        """Key of this spec -> column, of those that say what a row is."""
        named = {key: getattr(self, key) for key in ("id_column", "source_column", "date_column")}
        return {key: column for key, column in named.items() if column}

    @property
    def content(self) -> tuple[str, str]:
        """The key that says what is scored, and its value: `("text_column", "text")`."""
        for key in INSTEAD_OF_TEXT:
            if value := getattr(self, key):
                return key, value if isinstance(value, str) else ", ".join(value)
        return "text_column", self.text_column

    @property
    def is_text(self) -> bool:
        return self.image_column is None and not self.columns

    def label_name(self, label: int) -> str:
        return self.label_names[label] if label < len(self.label_names) else str(label)


@dataclass(frozen=True, kw_only=True)
class QueriesSpec:
    """Test items. The loss is taken on `target` only; `context` stands before it and is read, not scored."""

    path: str = ""  # only kind = "memorize" asks none
    target: str = TARGET  # a template over the columns
    context: str = ""
    messages_column: str | None = None  # chats instead of templates: the assistant's last message is the target
    choices_column: str | None = None  # multiple choice: templates know {choices}, {answer}, {answer_label}
    answer_column: str | None = None  # its right choice: a number from 0, a label, or the text
    id_column: str | None = None  # None: the row number
    group_column: str | None = None  # items (not text) with the same value are one query, named by it
    limit: int | None = None
    controls: str | None = None  # items known to be clean, with the same columns; see finf_core.verdict

    def __post_init__(self) -> None:
        _require(bool(self.target), "queries.target must not be empty")
        _require(
            (self.choices_column is None) == (self.answer_column is None),
            "queries.choices_column and queries.answer_column go together",
        )
        _require(
            self.messages_column is None
            or (self.context == "" and self.target == TARGET and self.choices_column is None),
            "queries.messages_column goes without context, target and choices_column: a chat has its own",
        )
        _require(self.limit is None or self.limit >= 1, "queries.limit must be at least 1")


@dataclass(frozen=True, kw_only=True)
class UpdateSpec:
    """The mirrored update: how the model is made to unlearn (ascent) or learn (descent) a query."""

    kind: UpdateKind = "kfac"
    direction: Direction = "ascent"
    move_nats: float = 0.1  # the step is solved so that the query's mean loss moves this far, in nats per target
    learning_rate: float | None = None  # a fixed step instead; the paper's released recipe: adam, 5e-3
    steps: int = 1  # the move in several steps, each along the gradient where the last one ended
    moves: str = "all"  # "all", "last:K" (the last K blocks), or a pattern over parameter names
    rank: int | None = None  # directions kept of each matrix of an update, which is then stored as so many; None: all
    embeddings: bool = False  # kfac, ekfac: token embeddings and an untied head move too
    damping: float | None = None  # relative to the mean eigenvalue of each block; None: finf_core.curvature's rule
    curvature_rows: int = 2048  # rows of the corpus that the curvature is fitted on
    curvature_labels: Labels = "sampled"  # the model's own samples (true Fisher) or the data (empirical)
    refine_steps: int = 0  # kfac, ekfac: conjugate-gradient steps on the Fisher matrix itself; see finf_core.refined
    refine_rows: int = 256  # of the curvature's sample, that it is taken over
    optimizer_state: str | None = None  # adam_moments: the training run's optimizer.pt
    difference: Difference | Literal["auto"] = "auto"  # how a row's change is taken: finf_core.differences, .precision
    least_signal: float = (
        10.0  # over noise, on a sample of rows (10: a correlation of 0.995); less stops the run; 0: no guard
    )
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.move_nats > 0, "update.move_nats must be positive")
        _require(self.learning_rate is None or self.learning_rate > 0, "update.learning_rate must be positive")
        _require(self.steps >= 1, "update.steps must be at least 1")
        _require(self.rank is None or self.rank >= 1, "update.rank must be at least 1")
        _require(
            self.rank is None or self.steps == 1,
            "update.rank goes with one step: several steps add up to more directions",
        )
        _require(self.damping is None or self.damping > 0, "update.damping must be positive")
        _require(
            self.refine_steps == 0 or (self.refine_steps > 0 and self.kind in ("kfac", "ekfac")),
            "update.refine_steps must not be negative, and goes with kind 'kfac' or 'ekfac'",
        )
        _require(self.refine_rows >= 1, "update.refine_rows must be at least 1")
        _require(self.least_signal >= 0, "update.least_signal must not be negative")
        wants_state = self.kind == "adam_moments"
        _require(
            wants_state == (self.optimizer_state is not None), "update.optimizer_state goes with kind 'adam_moments'"
        )
        _require(self.curvature_rows >= 1, "update.curvature_rows must be at least 1")


@dataclass(frozen=True, kw_only=True)
class StrategySpec:
    """How the corpus meets the queries; what each kind is and costs: `finf_core.strategy`."""

    kind: StrategyKind | Literal["auto"] = "auto"
    rescored_rows: int | None = None  # rows that a first pass keeps for each query; None: finf_core.strategy's rule
    rank: int = 64  # one_pass: directions of the updates that are kept on each side of a layer
    blocks: int | None = None  # one_pass: the last blocks that the first pass looks at; None: a third of them
    group_size: int = 4  # grouped: queries that share one update in the first pass
    num_groupings: int = 1  # grouped: how often, each time in other groups

    def __post_init__(self) -> None:
        for name in ("rescored_rows", "rank", "blocks", "group_size", "num_groupings"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"strategy.{name} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RankSpec:
    """What is kept of the scores."""

    top_k: int = 20
    by: Literal["mirror_ratio", "row_ratio", "control_z", "score"] = "row_ratio"  # see finf_core.scores
    mirror_k: int | None = None  # rows kept by mirror ratio beside the top_k of `by`; None: as many
    opponents_k: int = 0  # rows kept from the other end of `by`: those that the model reads better without the query
    lexical_k: int = 3  # rows kept by shared n-grams, as many by BM25 (finf_core.lexical); 0: words are not compared
    ngram_words: int = 8

    def __post_init__(self) -> None:
        _require(self.top_k >= 1, "rank.top_k must be at least 1")
        _require(self.mirror_k is None or self.mirror_k >= 1, "rank.mirror_k must be at least 1")
        _require(self.opponents_k >= 0, "rank.opponents_k must not be negative")
        _require(self.lexical_k >= 0, "rank.lexical_k must not be negative")
        _require(self.ngram_words >= 1, "rank.ngram_words must be at least 1")

    @property
    def num_by_ratio(self) -> int:
        return self.top_k if self.mirror_k is None else self.mirror_k


@dataclass(frozen=True, kw_only=True)
class VerdictSpec:
    """When a query counts as leaked: `finf_core.verdict`."""

    fdr: float = 0.05  # false discovery rate, where there are controls
    copied_from: float = 0.5  # mirror ratio of the best row
    shared_from: float = 0.5  # share of the query's n-grams that one row holds

    def __post_init__(self) -> None:
        _require(0 < self.fdr < 1, "verdict.fdr must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class DuplicatesSpec:
    """Which rows count as nearly the same (kind = "memorize"): `finf_core.near_duplicates`."""

    image_distance: float = 0.03  # between small grey versions: root mean square, black against white is 1
    shared_words: float = 0.5  # share of the shorter text's word sequences (rank.ngram_words each)
    most_rows: int = 50_000  # images are compared pair by pair; of a larger corpus no groups are sought

    def __post_init__(self) -> None:
        _require(0 <= self.image_distance < 1, "duplicates.image_distance must lie in [0, 1)")
        _require(0 < self.shared_words <= 1, "duplicates.shared_words must lie in (0, 1]")
        _require(self.most_rows >= 0, "duplicates.most_rows must not be negative")


@dataclass(frozen=True, kw_only=True)
class TruthSpec:
    """Of a trace: which rows are known to state the fact of a query, where that is known. Changes no score."""

    path: str | None = None  # Parquet or JSONL: query_id, and document_id or shard and row
    column: str | None = None  # or a column of the corpus: rows that have the query's value there are true
    query_column: str | None = None  # where queries have that value; None: a column of the same name
    recall_at: tuple[int, ...] = (1, 10)

    def __post_init__(self) -> None:
        _require(self.path is None or self.column is None, "truth.path and truth.column: give one of the two")
        _require(self.query_column is None or self.column is not None, "truth.query_column goes with truth.column")
        _require(all(k >= 1 for k in self.recall_at), "truth.recall_at: want numbers from 1")

    @property
    def is_given(self) -> bool:
        return self.path is not None or self.column is not None

    @property
    def column_of_queries(self) -> str | None:
        return self.query_column or self.column


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """A run: every row of the corpus is scored against every query. What is made of the scores is its kind."""

    name: str
    model: ModelSpec
    corpus: CorpusSpec
    queries: QueriesSpec = QueriesSpec()
    update: UpdateSpec = UpdateSpec()
    rank: RankSpec = RankSpec()
    strategy: StrategySpec = StrategySpec()
    verdict: VerdictSpec = VerdictSpec()
    duplicates: DuplicatesSpec = DuplicatesSpec()
    truth: TruthSpec = TruthSpec()
    kind: RunKind = "scan"

    def __post_init__(self) -> None:
        self._check_content()
        has_queries = bool(self.queries.path)
        _require(
            has_queries or self.kind == "memorize", "queries.path is missing: the test items, with all of [queries]"
        )
        if self.kind == "memorize":
            _require(not has_queries, "kind = 'memorize' asks no queries: leave [queries] out")
            _require(
                self.update.kind != "adam" and self.update.learning_rate is None,
                "kind = 'memorize' takes no step: update.kind = 'adam' and update.learning_rate do not go with it",
            )
        if self.kind == "mislabel":
            self._check_mislabel()
        _require(self.is_scan or self.queries.controls is None, "queries.controls are for verdicts: kind = 'scan'")
        _require(self.kind != "trace" or self.model.reads_text, "kind = 'trace' wants a language model")
        _require(self.kind == "trace" or not self.truth.is_given, "truth.path and truth.column are for kind = 'trace'")
        _require(
            self.strategy.kind != "grouped" or self.rank.by != "control_z",
            "strategy.kind = 'grouped' cannot order by control_z: a group's pass knows no single query's ratio",
        )
        _require(
            self.strategy.kind != "grouped" or self.queries.controls is None,
            "strategy.kind = 'grouped' goes without queries.controls: who shares a group with a leak is not chance",
        )
        allowed = self.name.replace("-", "").replace("_", "")
        _require(allowed.isascii() and allowed.isalnum(), "name: letters, digits, - and _ only (it names a folder)")
        _require(len(self.name) <= 100, "name: 100 characters at most (it names a folder)")

    @property
    def is_scan(self) -> bool:
        return self.kind == "scan"

    def _check_mislabel(self) -> None:
        """Every row is ranked, by all its ratios: there is nothing to choose."""
        _require(self.model.kind == "classifier", "kind = 'mislabel' wants model.kind = 'classifier': rows with labels")
        _require(self.rank.by != "control_z", "kind = 'mislabel' ranks by harm, not by rank.by = 'control_z'")
        _require(
            self.strategy.kind in ("auto", "every_query"),
            f"kind = 'mislabel' scores every row for every query: no strategy.kind = {self.strategy.kind!r}",
        )
        object.__setattr__(self, "strategy", replace(self.strategy, kind="every_query"))

    def _check_content(self) -> None:
        """That model, corpus and queries speak of the same things."""
        kind, corpus, queries = self.model.kind, self.corpus, self.queries
        has_images = (bool(corpus.image_column), "corpus.image_column")
        is_there, wanted = {
            "causal_lm": (corpus.is_text, "text or tokens"),
            "classifier": has_images,
            "diffusion": has_images,
            "own": (bool(corpus.columns), "corpus.columns"),
        }[kind]
        _require(is_there, f"model.kind = {kind!r} wants {wanted}")
        _require(
            (kind == "classifier") == (corpus.label_column is not None),
            "corpus.label_column goes with model.kind = 'classifier'",
        )
        if self.model.reads_text:
            _require(queries.group_column is None, "queries.group_column goes with images or a model of one's own")
            return
        channels = len(corpus.image_mode)  # "RGB" or "L"
        _require(
            all(len(each) in (0, 1, channels) for each in (self.model.images.mean, self.model.images.std)),
            f"model.images.mean, std: want 1 number, or {channels}, as corpus.image_mode = {corpus.image_mode!r} has",
        )
        is_plain = (queries.target, queries.context, queries.messages_column, queries.choices_column) == (
            TARGET,
            "",
            None,
            None,
        )
        _require(is_plain, "queries that are not text have the columns of the corpus, and no templates")
        object.__setattr__(self, "rank", replace(self.rank, lexical_k=0))  # there are no words to compare
