"""The worker, called directly: what it scores does not depend on how the corpus is cut or batched."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scan_example
import torch
from whole_run import run_job

from finf_core.errors import CheckpointError, InputError
from finf_core.spec import ScanSpec
from tasks.aggregate import aggregate
from tasks.check_precision import read_precision_check
from tasks.corpus import Unit
from tasks.curvature_store import read_cost
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import pending_units, planned_units
from tasks.shard_scorer import ShardScorer
from tasks.storage import read_table

RATIO_TOLERANCE = 2e-3  # absolute; float32 rounding of sums that are divided by a move of 0.1 nats


def score_everything(spec: ScanSpec, store: Path, batch_tokens: int = 1024, backwards: bool = False) -> ScanJob:
    """All stages of a scan but the report."""
    return run_job(spec, store, batch_tokens, backwards, with_report=False).job


def ratios(job: ScanJob) -> dict[tuple[str, str], float]:
    """(query, document) -> mirror ratio, of every listed row."""
    top = read_table(job.file("top.parquet"))
    keys = zip(top["query_id"].to_pylist(), top["document_id"].to_pylist(), strict=True)
    return dict(zip(keys, top["mirror_ratio"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def everything_listed(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    """A scan that lists every row, so that two scans can be compared row by row."""
    folder = tmp_path_factory.mktemp("inputs")
    corpus = scan_example.write_shards(str(folder / "corpus"), scan_example.corpus_texts(), num_shards=3)
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd")
    return dataclasses.replace(spec, rank=dataclasses.replace(spec.rank, top_k=96))


@pytest.fixture(scope="module")
def undisturbed(everything_listed: ScanSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], float]:
    found = ratios(score_everything(everything_listed, tmp_path_factory.mktemp("store")))
    assert len(found) == 4 * 96
    return found


def assert_same_ratios(found: dict[tuple[str, str], float], wanted: dict[tuple[str, str], float]) -> None:
    assert found.keys() == wanted.keys()
    gaps = [abs(found[key] - wanted[key]) for key in wanted]
    assert max(gaps) <= RATIO_TOLERANCE


def test_the_batch_size_changes_nothing(everything_listed: ScanSpec, undisturbed, tmp_path: Path) -> None:
    for batch_tokens in (1, 300, 100_000):
        job = score_everything(everything_listed, tmp_path / str(batch_tokens), batch_tokens=batch_tokens)
        assert_same_ratios(ratios(job), undisturbed)


def test_the_order_of_the_units_changes_not_one_bit(everything_listed: ScanSpec, undisturbed, tmp_path: Path) -> None:
    assert ratios(score_everything(everything_listed, tmp_path, backwards=True)) == undisturbed


def test_other_shards_and_row_groups_change_nothing(everything_listed: ScanSpec, undisturbed, tmp_path: Path) -> None:
    pattern = scan_example.write_shards(str(tmp_path / "c"), scan_example.corpus_texts(), num_shards=1, group_rows=41)
    moved = dataclasses.replace(everything_listed, corpus=dataclasses.replace(everything_listed.corpus, path=pattern))
    top = read_table(score_everything(moved, tmp_path / "store").file("top.parquet"))
    documents = zip(top["query_id"].to_pylist(), top["row"].to_pylist(), strict=True)
    found = {
        (query, f"doc-{row}"): r for (query, row), r in zip(documents, top["mirror_ratio"].to_pylist(), strict=True)
    }
    assert_same_ratios(found, undisturbed)


@pytest.mark.parametrize("direction", ["ascent", "descent"])
@pytest.mark.parametrize("kind", ["sgd", "adam", "diagonal", "kfac", "ekfac"])
def test_the_planted_copy_is_first_with_mirror_ratio_one(
    everything_listed: ScanSpec, tmp_path: Path, kind: str, direction: str
) -> None:
    update = dataclasses.replace(everything_listed.update, kind=kind, direction=direction)
    spec = dataclasses.replace(everything_listed, update=update)
    job = score_everything(spec, tmp_path)
    first = read_table(job.file("top.parquet")).slice(0, 1).to_pylist()[0]
    assert (first["query_id"], first["rank"], first["document_id"], first["text_excerpt"]) == (
        "0",
        1,
        "doc-37",
        scan_example.LEAK,
    )
    assert first["mirror_ratio"] == pytest.approx(1.0, abs=0.02)
    verdicts = read_table(job.file("queries.parquet")).to_pylist()
    assert verdicts[0]["leaked"]
    assert verdicts[0]["max_mirror_ratio"] == first["mirror_ratio"]
    assert [sum(verdict["ratio_counts"]) for verdict in verdicts] == [96] * 4  # every row of every unit, once


def test_a_refined_update_finds_the_copy_too(everything_listed: ScanSpec, tmp_path: Path) -> None:
    update = dataclasses.replace(everything_listed.update, kind="kfac", refine_steps=2, refine_rows=8)
    job = score_everything(dataclasses.replace(everything_listed, update=update), tmp_path)
    first = read_table(job.file("top.parquet")).to_pylist()[0]
    assert (first["document_id"], first["mirror_ratio"]) == ("doc-37", pytest.approx(1.0, abs=0.02))
    plain = dataclasses.replace(
        job, spec=dataclasses.replace(job.spec, update=dataclasses.replace(update, refine_steps=0))
    )
    assert plain.curvature_uri == job.curvature_uri  # one fit serves both
    assert plain.updates_uri != job.updates_uri


def test_a_bfloat16_model_is_scored_as_well_as_a_float32_one(everything_listed: ScanSpec, tmp_path: Path) -> None:
    """The update is far finer than its weights; the check finds out and takes changes another way."""
    spec = dataclasses.replace(
        everything_listed,
        model=dataclasses.replace(everything_listed.model, dtype="bfloat16"),
        update=dataclasses.replace(everything_listed.update, move_nats=0.01),
    )
    job = score_everything(spec, tmp_path)
    check = read_precision_check(job)
    assert check.trials[0].precision.difference == "forward"
    assert check.trials[0].trust is None or check.trials[0].trust.ratio < spec.update.least_signal
    assert job.precision == check.precision != check.trials[0].precision
    narrow = dataclasses.replace(spec, model=everything_listed.model)
    found, wanted = ratios(job), ratios(score_everything(narrow, tmp_path / "float32"))
    assert np.corrcoef([found[key] for key in wanted], list(wanted.values()))[0, 1] > 0.99
    assert found["0", "doc-37"] == pytest.approx(1.0, abs=0.02)


def test_a_precision_that_the_spec_names_is_refused_where_it_gives_noise(
    everything_listed: ScanSpec, tmp_path: Path
) -> None:
    spec = dataclasses.replace(
        everything_listed,
        model=dataclasses.replace(everything_listed.model, dtype="bfloat16"),
        update=dataclasses.replace(everything_listed.update, move_nats=0.001, difference="forward"),
    )
    with pytest.raises(InputError, match="does not stand out from rounding"):
        score_everything(spec, tmp_path)
    assert not list(tmp_path.rglob("scores-*/*"))


def test_the_training_run_s_adam_state_serves_as_curvature(everything_listed: ScanSpec, tmp_path: Path) -> None:
    scorer = ShardScorer(resolve_inputs(everything_listed, scan_example.run_options(str(tmp_path / "other"))))
    module = scorer.model.adapter.module.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters())
    for text in scan_example.corpus_texts():
        ids_BT = torch.tensor([scorer.model.tokenizer(text)["input_ids"]])
        module(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    update = dataclasses.replace(
        everything_listed.update, kind="adam_moments", optimizer_state=str(tmp_path / "optimizer.pt")
    )
    job = score_everything(dataclasses.replace(everything_listed, update=update), tmp_path / "store")
    assert read_cost(job.curvature_uri).moving_share == 1.0
    first = read_table(job.file("top.parquet")).to_pylist()[0]
    assert (first["document_id"], first["mirror_ratio"]) == ("doc-37", pytest.approx(1.0, abs=0.02))


def test_a_row_longer_than_the_context_is_counted_whole(tiny_checkpoint: Path, tmp_path: Path) -> None:
    long_text = " ".join(scan_example.texts(20, seed=5))
    corpus = scan_example.write_shards(str(tmp_path / "c"), [long_text], num_shards=1)
    queries = scan_example.write_queries(str(tmp_path / "q.parquet"), [("", long_text)])
    job = score_everything(scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd"), tmp_path / "store")
    [row] = read_table(job.file("top.parquet")).to_pylist()
    num_tokens = len(ShardScorer(job).model.tokenizer(long_text)["input_ids"])
    assert num_tokens > 3 * 48
    assert row["num_targets"] == num_tokens - 1
    assert row["mirror_ratio"] == pytest.approx(1.0, abs=0.02)


def test_bad_rows_stop_the_run_or_are_counted_and_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = scan_example.write_shards(str(tmp_path / "c"), ["alpha beta", None, "  ", "red dog"], num_shards=1)
    queries = scan_example.write_queries(str(tmp_path / "q.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd")
    with pytest.raises(InputError, match=r"shard-000\.parquet: row 1: text is null \(column 'text'\)"):
        score_everything(spec, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("scores-*/*"))
    skipping = dataclasses.replace(spec, corpus=dataclasses.replace(spec.corpus, on_bad_row="skip"))
    job = score_everything(skipping, tmp_path / "store")
    assert {row["document_id"] for row in read_table(job.file("top.parquet")).to_pylist()} == {"doc-0", "doc-3"}
    totals = __import__("json").loads(
        (tmp_path / "store" / Path(job.totals_uri).relative_to(tmp_path / "store")).read_text()
    )
    assert [item[1:] for item in totals["skipped_rows"]] == [[1, "text is null"], [2, "text is empty"]]


def test_a_loss_that_is_not_finite_is_named_and_never_ranks(tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = scan_example.write_shards(str(tmp_path / "c"), ["alpha beta", "red dog river"], num_shards=1)
    job = resolve_inputs(
        scan_example.scan_spec(
            tiny_checkpoint, corpus, scan_example.write_queries(str(tmp_path / "q.parquet")), kind="sgd"
        ),
        scan_example.run_options(str(tmp_path / "store")),
    )
    scorer = ShardScorer(job)
    scorer.count_words(job)
    for query in read_queries(job.queries_uri):
        scorer.solve_update(query)
    river = scorer.model.tokenizer(" river", add_special_tokens=False)["input_ids"][0]

    def break_river(_module, inputs, hidden):
        return hidden.masked_fill((inputs[0] == river)[..., None], np.nan)

    scorer.model.adapter.module.get_input_embeddings().register_forward_hook(break_river)
    [unit] = planned_units(job)
    receipt = scorer.score(unit)
    assert [(row, reason) for _, row, reason in receipt.skipped] == [(1, "loss is not finite")]
    aggregate(job)
    assert {row["row"] for row in read_table(job.file("top.parquet")).to_pylist()} == {0}


def test_a_model_that_reads_worse_than_chance_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = scan_example.write_shards(str(tmp_path / "c"), scan_example.corpus_texts(), num_shards=1)
    queries = scan_example.write_queries(str(tmp_path / "q.parquet"))
    job = resolve_inputs(
        scan_example.scan_spec(tiny_checkpoint, corpus, queries), scan_example.run_options(str(tmp_path))
    )
    scorer = ShardScorer(job)
    [unit] = planned_units(job)
    assert scorer.check_model(unit).mean_nats < 4
    embeddings = scorer.model.adapter.module.get_input_embeddings().weight
    embeddings.data = 3 * embeddings.data.roll(31, dims=0)  # sure of itself, and of another tokenizer
    with pytest.raises(CheckpointError, match="chance"):
        scorer.check_model(unit)


def test_finished_units_are_told_from_the_store(everything_listed: ScanSpec, tmp_path: Path) -> None:
    job = score_everything(everything_listed, tmp_path)
    assert pending_units(job) == []
    first: Unit = next(planned_units(job))
    Path(job.score_uri(first)).unlink()
    assert pending_units(job) == [first]


def test_an_update_is_solved_once_for_equal_texts(everything_listed: ScanSpec, tmp_path: Path) -> None:
    from tasks.solve_updates import pending_queries

    queries = scan_example.write_queries(
        str(tmp_path / "q.parquet"), [("", "red dog"), ("", "red dog"), ("", "one cat")]
    )
    spec = dataclasses.replace(everything_listed, queries=dataclasses.replace(everything_listed.queries, path=queries))
    job = resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))
    assert [query.target for query in pending_queries(job)] == ["red dog", "one cat"]


def test_candidates_survive_the_round_trip_through_parquet(everything_listed: ScanSpec, tmp_path: Path) -> None:
    from tasks.unit_result import read_unit_result

    job = score_everything(everything_listed, tmp_path)
    candidates, counts_QK, receipt = read_unit_result(job.score_uri(next(planned_units(job))))
    assert isinstance(candidates, pa.Table)
    assert counts_QK.sum() == 4 * receipt.num_rows == len(candidates)
