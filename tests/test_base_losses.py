"""The base-loss cache: what it saves, that it changes no bit, and that a damaged entry is never trusted."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
import torch

from finf_core.errors import StorageError
from finf_core.precision import Precision
from finf_core.spec import CorpusSpec, RankSpec, ScanSpec
from tasks.base_losses import BaseEntry, arithmetic, publish_base, read_base
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import planned_units
from tasks.settle import settle
from tasks.shard_scorer import ShardScorer
from tasks.unit_result import read_unit_result

NUM_ROWS, GROUP_ROWS, NUM_QUERIES = 64, 8, 4
DIFFERENCES = ("forward", "central", "jvp")


@pytest.fixture
def spec(tiny_checkpoint: Path, tmp_path: Path) -> ScanSpec:
    rows = scan_example.corpus_texts(NUM_ROWS)
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), rows, num_shards=2, group_rows=GROUP_ROWS)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    return scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd", difference="forward")


class Run:
    """All units of a spec, scored by one worker whose forward passes and tokenised texts are counted."""

    def __init__(self, spec: ScanSpec, store: Path, **options: Any) -> None:
        given = dataclasses.replace(scan_example.run_options(str(store)), **options)
        self.job = settle(resolve_inputs(spec, given))
        self.scorer = ShardScorer(self.job)
        self.scorer.count_words(self.job)
        for query in read_queries(self.job.queries_uri):
            self.scorer.solve_update(query)
        self.num_windows, self.num_tokenised = 0, 0
        self.scorer.model.adapter.module.base_model.register_forward_pre_hook(self._count, with_kwargs=True)
        tokenizer = self.scorer.model.tokenizer
        self.scorer.model = dataclasses.replace(self.scorer.model, tokenizer=_Counting(tokenizer, self))
        for unit in planned_units(self.job):
            self.scorer.score(unit)

    def _count(self, _module: Any, _inputs: Any, named: dict[str, Any]) -> None:
        self.num_windows += len(named["input_ids"])

    @property
    def scores(self) -> list[bytes]:
        """Everything that the units hold, bit by bit."""
        found = [read_unit_result(self.job.score_uri(unit)) for unit in planned_units(self.job)]
        return [_bits(candidates) + counts.tobytes() for candidates, counts, _ in found]


class _Counting:
    def __init__(self, tokenizer: Any, run: Run) -> None:
        self.tokenizer, self.run = tokenizer, run

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.run.num_tokenised += len(texts)
        return self.tokenizer(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def _bits(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


def entries(store: Path) -> list[Path]:
    return sorted((store / "cache").glob("base-*/*.parquet"))


def forget_scores(store: Path) -> None:
    for path in (store / "cache").glob("scores-*/*.parquet"):
        path.unlink()


def with_queries(spec: ScanSpec, tmp_path: Path, texts: list[str]) -> ScanSpec:
    uri = scan_example.write_queries(str(tmp_path / "other.parquet"), [("", text) for text in texts])
    return dataclasses.replace(spec, queries=dataclasses.replace(spec.queries, path=uri))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_scores_are_the_same_to_the_bit_with_the_cache_and_without(
    spec: ScanSpec, tmp_path: Path, difference: str
) -> None:
    spec = dataclasses.replace(spec, update=dataclasses.replace(spec.update, difference=difference))
    fresh = Run(spec, tmp_path / "store").scores
    forget_scores(tmp_path / "store")
    assert Run(spec, tmp_path / "store").scores == fresh


def test_a_new_query_runs_no_base_pass_and_leaves_the_entries_as_they_are(spec: ScanSpec, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = Run(spec, store)
    num_windows = first.num_windows // (1 + NUM_QUERIES)
    before = {path: path.stat().st_mtime_ns for path in entries(store)}
    assert len(before) == 2
    second = Run(with_queries(spec, tmp_path, ["one red dog", "two blue cats"]), store)
    assert second.num_windows == 2 * num_windows
    assert {path: path.stat().st_mtime_ns for path in entries(store)} == before


def test_a_grown_corpus_pays_for_its_new_shard_only(spec: ScanSpec, tmp_path: Path) -> None:
    store = tmp_path / "store"
    Run(spec, store)
    table = pa.table({"id": ["new"], "text": ["red dog by the river"]})
    pq.write_table(table, tmp_path / "corpus" / "shard-900.parquet")
    forget_scores(store)
    first, grown = entries(store), Run(spec, store)
    assert len(entries(store)) == len(first) + 1
    assert grown.num_windows % NUM_QUERIES == 1  # every window under every query; of the base pass, the new row alone


def test_a_skipped_row_is_no_part_of_the_entry_and_the_rows_after_it_are(spec: ScanSpec, tmp_path: Path) -> None:
    texts: list[str | None] = [*scan_example.texts(5), None, *scan_example.texts(9, seed=3), "  ", "red dog"]
    path = scan_example.write_shards(str(tmp_path / "bad"), texts, num_shards=1, group_rows=GROUP_ROWS)
    spec = dataclasses.replace(spec, corpus=CorpusSpec(path=path, on_bad_row="skip"))
    fresh = Run(spec, tmp_path / "store")
    forget_scores(tmp_path / "store")
    again = Run(spec, tmp_path / "store")
    assert again.scores == fresh.scores
    assert again.num_windows * (NUM_QUERIES + 1) == fresh.num_windows * NUM_QUERIES


def drop_a_target(entry: BaseEntry) -> BaseEntry:
    fewer = entry.num_targets.copy()
    fewer[3] -= 1
    return dataclasses.replace(entry, num_targets=fewer, nats_N=np.delete(entry.nats_N, fewer[:4].sum()))


def drop_a_row(entry: BaseEntry) -> BaseEntry:
    first = int(entry.num_targets[0])
    return BaseEntry(entry.row[1:], entry.num_targets[1:], entry.nats_N[first:])


def rewrite(path: Path, change: Callable[[BaseEntry], BaseEntry]) -> None:
    entry = read_base(str(path))
    assert entry is not None
    publish_base(str(path), change(entry))


def flip_a_loss(path: Path) -> None:
    """Valid Parquet, the right counts, another number: only the digest knows."""
    table = pq.read_table(path)
    nats = table["nats"].to_pylist()
    nats[0][0] += 1.0
    column = pa.array(nats, table.schema.field("nats").type)
    pq.write_table(table.set_column(table.schema.get_field_index("nats"), "nats", column), path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]) and None,
    "empty": lambda path: path.write_bytes(b"") and None,
    "another table": lambda path: pq.write_table(pa.table({"row": [1]}), path),
    "other counts": lambda path: rewrite(path, drop_a_target),
    "other rows": lambda path: rewrite(path, drop_a_row),
    "another number": flip_a_loss,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_computed_anew_and_mended(
    spec: ScanSpec, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = tmp_path / "store"
    fresh = Run(spec, store).scores
    whole = [read_base(str(path)) for path in entries(store)]
    for path in entries(store):
        damage(path)
    forget_scores(store)
    assert Run(spec, store).scores == fresh
    for path, entry in zip(entries(store), whole, strict=True):
        mended = read_base(str(path))
        assert entry is not None
        assert mended is not None
        assert mended.holds(entry)


def test_base_losses_are_there_before_the_scores(spec: ScanSpec, tmp_path: Path) -> None:
    store = tmp_path / "store"
    scores = Path(settle(resolve_inputs(spec, scan_example.run_options(str(store)))).scores_uri)
    scores.parent.mkdir(parents=True)
    scores.write_text("no folder can be here")
    with pytest.raises(StorageError):
        Run(spec, store)
    assert len(entries(store)) == 1  # of the unit whose scores could not be published


def test_float32_losses_are_stored_as_float32_and_finer_ones_whole(tmp_path: Path) -> None:
    coarse, fine = np.array([0.5, np.nan, np.inf, np.float64(np.float32(0.1))]), np.array([0.1, 0.2, 0.3, 0.4])
    for nats_N, kind in ((coarse, pa.float32()), (fine, pa.float64())):
        uri = str(tmp_path / "entry.parquet")
        publish_base(uri, BaseEntry(np.array([3, 5]), np.array([4, 0]), nats_N))
        assert pq.read_schema(uri).field("nats").type.value_type == kind
        found = read_base(uri)
        assert found is not None
        np.testing.assert_array_equal(found.nats_N, nats_N)
        assert (found.row.tolist(), found.num_targets.tolist(), found.token_ids) == ([3, 5], [4, 0], None)


def test_cached_token_ids_spare_a_further_run_the_tokenizer(spec: ScanSpec, tmp_path: Path) -> None:
    store = tmp_path / "store"
    without = Run(spec, store)
    assert without.num_tokenised == NUM_ROWS
    forget_scores(store)
    asked = Run(spec, store, cache_tokens=True)  # the entries are there, without token ids
    assert asked.num_tokenised == NUM_ROWS
    forget_scores(store)
    again = Run(spec, store)
    assert again.num_tokenised == 0
    assert without.scores == asked.scores == again.scores


def base_fingerprint(job: ScanJob) -> str:
    return job.base_fingerprint(1024, "this machine")


def test_base_losses_are_shared_where_no_bit_can_change_and_only_there(spec: ScanSpec, tmp_path: Path) -> None:
    job = resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))
    mine = base_fingerprint(job)
    contents = [
        dataclasses.replace(spec.corpus, **changes)
        for changes in (
            {"tokens_column": "ids"},
            {"messages_column": "ids"},
            {"messages_column": "ids", "loss_on": "assistant"},
            {"text_template": "{ids}"},
        )
    ]
    same: list[dict[str, Any]] = [
        {"rank": RankSpec(top_k=3)},
        {"update": dataclasses.replace(spec.update, move_nats=0.3)},
        {"corpus": dataclasses.replace(spec.corpus, id_column=None, path="elsewhere", on_bad_row="skip")},
        {"model": dataclasses.replace(spec.model, path="elsewhere")},
    ]
    other: list[dict[str, Any]] = [
        {"model": dataclasses.replace(spec.model, context_tokens=40)},
        {"model": dataclasses.replace(spec.model, overlap_tokens=4)},
        {"model": dataclasses.replace(spec.model, dtype="bfloat16")},
        {"corpus": dataclasses.replace(spec.corpus, text_column="body")},
        *({"corpus": corpus} for corpus in contents),
        {"corpus": contents[1], "model": dataclasses.replace(spec.model, chat_template="plain")},
    ]
    for changes in same:
        changed = dataclasses.replace(job, spec=dataclasses.replace(spec, **changes), shards_digest="x")
        assert base_fingerprint(changed) == mine, changes
    names = [base_fingerprint(dataclasses.replace(job, spec=dataclasses.replace(spec, **each))) for each in other]
    assert len({mine, *names}) == 1 + len(other)
    assert base_fingerprint(dataclasses.replace(job, model_digest="other")) != mine
    assert job.base_fingerprint(512, "this machine") != mine != job.base_fingerprint(1024, "another machine")
    widened = dataclasses.replace(job, precision=Precision("forward", dtype="float32"))
    assert base_fingerprint(widened) != mine


def test_other_threads_round_otherwise_and_have_entries_of_their_own() -> None:
    before, threads = arithmetic(compiled=False), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert arithmetic(compiled=False) != before
    finally:
        torch.set_num_threads(threads)
    assert arithmetic(compiled=False) == before
