"""benchmarks/gpu.py on the CPU: it runs with finf_core alone, and it counts the operations that a Llama takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_floors import count
from benchmarks.gpu_shapes import SHAPES, random_rows
from finf_core.batches import plan_batches

ROOT = Path(__file__).parent.parent
SAME_COUNT = 0.02  # relative; a count by hand leaves out what is no matrix product
RUN_WITHOUT = """
import runpy, sys
for name in {absent}:
    sys.modules[name] = None  # importing it fails as if it were not installed
sys.argv = ["benchmarks.gpu", "--shape", "tiny", "--updates", "2", "--queries", "3", "--repeats", "1", "--json"]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
ABSENT = ("prefect", "ray", "fsspec", "s3fs", "boto3", "datasets", "tasks", "flows")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    command = [sys.executable, "-c", RUN_WITHOUT.format(absent=ABSENT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["shapes"]["tiny"]
    return result


def test_the_gpu_benchmark_runs_where_only_finf_core_and_torch_are_installed(found: dict[str, Any]) -> None:
    assert set(found) >= {"flop", "tflops", "ceiling_share", "ceiling_share_goal", "peak_memory_gib", "padding_share"}
    assert set(found["tokens_per_second"]) == {"base", "mirrored", "adjoint", "bare", "trunk"}
    assert found["num_tokens"] == sum(len(window) for row in random_rows(SHAPES["tiny"]) for window in row)
    speed = found["tokens_per_second"]
    assert found["efficiency"] == pytest.approx(speed["base"] / speed["bare"])


def test_the_bare_loop_finds_the_same_loss_as_the_pass_it_is_compared_with(found: dict[str, Any]) -> None:
    assert found["nats_per_token"]["bare"] == pytest.approx(found["nats_per_token"]["base"], rel=1e-6)


def test_the_counted_operations_are_those_of_a_llama_by_hand(found: dict[str, Any]) -> None:
    by_hand = flop_by_hand("tiny")
    assert found["flop"]["products"] == pytest.approx(by_hand["products"], rel=SAME_COUNT)
    assert found["flop"]["attention"] == pytest.approx(by_hand["attention"], rel=SAME_COUNT)


def test_the_floors_are_counted_from_the_same_weights() -> None:
    llama = SHAPES["1B"].config
    flop = count(SHAPES["1B"])["flop"]
    assert flop["layers"] == pytest.approx(2 * llama["num_hidden_layers"] * block_weights("1B"), rel=SAME_COUNT)
    assert flop["head"] == 2 * llama["hidden_size"] * llama["vocab_size"]


def block_weights(name: str) -> int:
    llama = SHAPES[name].config
    hidden, heads = llama["hidden_size"], llama["num_attention_heads"]
    key_value = hidden * llama["num_key_value_heads"] // heads
    return int(2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * llama["intermediate_size"])


def flop_by_hand(name: str) -> dict[str, int]:
    """Two operations for each weight and position, four for each pair of positions and hidden unit."""
    shape, llama = SHAPES[name], SHAPES[name].config
    lengths = [len(window) for row in random_rows(shape) for window in row]
    hidden, layers = llama["hidden_size"], llama["num_hidden_layers"]
    products = 2 * sum(lengths) * hidden * llama["vocab_size"]  # the head reads targets only, not padding
    attention = 0
    for batch in plan_batches(lengths, shape.batch_tokens):
        longest = max(lengths[index] for index in batch)
        products += 2 * len(batch) * longest * layers * block_weights(name)
        attention += 4 * len(batch) * longest**2 * layers * hidden
    return {"products": products, "attention": attention}
