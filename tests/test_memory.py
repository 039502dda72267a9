"""Memory that is really short: smaller batches, the same numbers."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import scan_example
import torch
from faults import compare, fault, read_result
from test_shard_scorer import score_everything

from finf_core.errors import CapacityError
from finf_core.memory import capacity_errors
from finf_core.spec import RankSpec
from tasks import storage
from tasks.aggregate import aggregate
from tasks.score_shards import planned_units

TESTS = Path(__file__).parent
NUM_ROWS = 800
SPARE_BYTES = 24_000_000


def test_batches_are_halved_until_they_fit_and_the_scores_are_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The process may not have a few more megabytes than it has, and is asked for batches of a hundred."""
    rows = scan_example.corpus_texts(NUM_ROWS)
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), rows, 2, group_rows=NUM_ROWS)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    spec = replace(scan_example.scan_spec(tiny_checkpoint, corpus, queries), rank=RankSpec(top_k=NUM_ROWS))
    with fault("memory too short for a batch"):
        job = score_everything(spec, tmp_path / "store", batch_tokens=32_768)
        undisturbed = read_result(job.run_uri)
        for unit in planned_units(job):
            storage.remove(job.score_uri(unit))
        command = [sys.executable, str(TESTS / "scan_short_of_memory.py"), job.run_uri, str(SPARE_BYTES)]
        done = subprocess.run(
            command, env=os.environ | {"MALLOC_ARENA_MAX": "1"}, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-2000:]
        used, wanted = map(int, done.stdout.split())
        assert wanted == 32_768
        assert 48 <= used <= wanted / 4
        aggregate(job)
        compare(read_result(job.run_uri), undisturbed)


def test_a_batch_is_never_smaller_than_its_longest_window(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from tasks.checkpoint import load_language_model

    model = load_language_model(scan_example.scan_spec(tiny_checkpoint, "c", "q").model, batch_tokens=1000)
    assert [model.with_halved_batches(times).batch_tokens for times in range(6)] == [1000, 500, 250, 125, 62, 48]
    few = load_language_model(scan_example.scan_spec(tiny_checkpoint, "c", "q").model, batch_tokens=20)
    assert few.with_halved_batches(3).batch_tokens == 20


def no_memory_of_torch() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def no_memory_of_python() -> None:
    bytes(2**62)


def no_memory_of_arrow() -> None:
    pa.allocate_buffer(2**60)


@pytest.mark.parametrize("ask", [no_memory_of_torch, no_memory_of_python, no_memory_of_arrow])
def test_whoever_has_no_memory_it_is_a_capacity_error(ask) -> None:
    with (
        pytest.raises(CapacityError, match="out of memory while asking for too much"),
        capacity_errors("asking for too much"),
    ):
        ask()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), capacity_errors("adding"):
        torch.zeros(2, 3).reshape(5)
