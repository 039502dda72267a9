"""finf's scoring pass on one GPU: random Llamas of 160M, 1B and 7B parameters in bfloat16, nothing but finf_core.

Wants torch, transformers, numpy, scipy and pyarrow; no Prefect, no Ray. Weights are drawn on the device, nothing is
downloaded. Without a GPU nothing is measured; `--shape tiny` runs the same code on a CPU, in float32.

What is timed, in turns, medians of `--repeats` rounds after one that is thrown away:

- `base`: `score_rows` without updates, from rows of token ids in memory to sums of nats. `mirrored`: with `--updates`
  random updates of all parameters, or of the last block where the memory does not hold them; tokens count once a pass.
- `bare`: the loop one would write by hand over the same batches, made beforehand and on the device already: base
  model, head on slices of the targets, `cross_entropy`, one wait for the device at the end. `efficiency`: base / bare.
- `adjoint`: one pass for `--queries` queries (`finf_core.adjoint`) with `--rank` directions a side, in smaller batches,
  as it keeps what every layer saw. `adjoint_forwards` is its seconds in those of `base`.
- `trunk`: the bare loop without head and loss. `move`: the weights to a mirrored model and back.

With `--compile` blocks and loss run in compiled kernels (`finf_core.kernels`), as a scan's do on a GPU; the blocks of
the bare loop too. Compiling and drawing the weights is apart (`start_seconds` and the first round): a minute a shape.

`ceiling_share` is the base pass's operations, counted by torch, over its seconds and over the ceiling: the fastest of
some large matrix products of normal numbers (zeros draw less power and run faster). Attention counts half, as it is
causal, and padding is taken off: neither is work that anyone asked for.

python -m benchmarks.gpu [--shape all|160M|1B|7B|tiny] [--rows N] [--updates N] [--queries N] [--rank N]
                         [--repeats N] [--compile] [--json]
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_device import free_memory, matmul_ceiling, peak_memory_bytes, wait
from benchmarks.gpu_shapes import (
    SHAPES,
    Shape,
    random_model,
    random_projection,
    random_rows,
    random_update,
    what_can_move,
)
from finf_core import CausalLM, score_rows
from finf_core.adjoint import row_changes
from finf_core.batches import plan_batches
from finf_core.causal_lm import TokenBatch
from finf_core.kernels import plain_kernels
from finf_core.losses import IGNORE_INDEX
from finf_core.moving import moved

GIB = 1 << 30
EFFICIENCY_GOAL = 0.95
FUSED_ATTENTION = [  # torch has no count for the one on CPUs, and none of the others where keys have fewer heads
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}")
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
]
NO_GPU = "no GPU: nothing measured; --shape tiny runs the same code on a CPU"


@dataclass(frozen=True)
class Counts:
    updates: int
    queries: int
    rank: int
    repeats: int
    compile: bool


class Bench:
    """One model and its rows; each way over them returns when the device is done."""

    def __init__(self, shape: Shape, device: str, counts: Counts) -> None:
        self.shape, self.device, self.num_updates = shape, device, counts.updates
        started = time.perf_counter()
        self.adapter, self.rows = random_model(shape, device, counts.compile), random_rows(shape)
        self.start_seconds = time.perf_counter() - started
        windows = [window for row in self.rows for window in row]
        plan = plan_batches([len(window) for window in windows], shape.batch_tokens)
        self.batches: list[TokenBatch] = [self.adapter.collate([windows[i] for i in indices]) for indices in plan]
        self.targets = [_targets(batch) for batch in self.batches]
        self.num_tokens = sum(map(len, windows))
        self.padding_share = 1 - self.num_tokens / sum(batch.input_ids_BT.numel() for batch in self.batches)
        self.moves = what_can_move(self.adapter)
        self.update = random_update(self.adapter, self.moves)
        self.projection = random_projection(self.adapter, counts.queries, counts.rank)

    def ways(self) -> dict[str, tuple[Callable[[], object], int]]:
        """What is timed, and how many passes over the rows it stands for: one more way is one more line here."""
        return {
            "base": (lambda: self.score(0), 1),
            "mirrored": (lambda: self.score(self.num_updates), self.num_updates + 1),
            "adjoint": (self.adjoint, 1),
            "bare": (self.bare_nats, 1),
            "trunk": (self.trunk, 1),
            "move": (self.move, 0),
        }

    def score(self, num_updates: int) -> float:
        """finf's own pass; the nats of all rows under the base model."""
        losses = score_rows(self.adapter, self.rows, repeat(self.update, num_updates), self.shape.batch_tokens)
        return float(losses.base_nats_R.sum())

    def adjoint(self) -> None:
        row_changes(self.adapter, self.rows, self.projection, self.shape.adjoint_tokens)

    @torch.inference_mode()
    def bare_nats(self) -> float:
        nats, size = torch.zeros((), dtype=torch.float64, device=self.device), self.shape.bare_chunk_tokens
        for batch, (places_N, labels_N) in zip(self.batches, self.targets, strict=True):
            hidden_ND = self._hidden(batch).flatten(0, 1)[places_N]
            for hidden_CD, labels_C in zip(hidden_ND.split(size), labels_N.split(size), strict=True):
                nats += F.cross_entropy(self.adapter.head(hidden_CD).float(), labels_C, reduction="sum")
        return nats.item()

    @torch.inference_mode()
    def trunk(self) -> None:
        for batch in self.batches:
            self._hidden(batch)
        wait(self.device)

    def _hidden(self, batch: TokenBatch) -> Tensor:
        hidden: Tensor = self.adapter.model.base_model(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
        return hidden

    def move(self) -> None:
        with moved(self.adapter.module, self.update.deltas):
            wait(self.device)


def _targets(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Places of the targets in the flattened batch, and what they are."""
    labels_N = batch.labels_BT.flatten()
    places_N = (labels_N != IGNORE_INDEX).nonzero()[:, 0]
    return places_N, labels_N[places_N]


def measure(shape: Shape, device: str, counts: Counts) -> dict[str, Any]:
    free_memory(device)
    ceiling = matmul_ceiling(shape.ceiling_sizes, device)
    free_memory(device)
    bench = Bench(shape, device, counts)
    ways = bench.ways()
    seconds = timed_in_turns({way: run for way, (run, _) in ways.items()}, counts.repeats)
    speed = {way: bench.num_tokens * passes / seconds[way] for way, (_, passes) in ways.items() if passes}
    peak_bytes = peak_memory_bytes(device)
    flop = count_flop(bench.adapter, bench.batches)
    asked = (flop["products"] + flop["attention"] / 2) * (1 - bench.padding_share)
    return {
        "num_parameters": sum(parameter.numel() for parameter in bench.adapter.module.parameters()),
        "num_tokens": bench.num_tokens,
        "padding_share": bench.padding_share,
        "moves": bench.moves,
        "tokens_per_second": speed,
        "adjoint_forwards": seconds["adjoint"] / seconds["base"],
        "move_seconds": seconds["move"],
        "start_seconds": bench.start_seconds,
        "flop": flop,
        "tflops": asked / seconds["base"] / 1e12,
        "ceiling_tflops": ceiling / 1e12,
        "ceiling_share": asked / seconds["base"] / ceiling,
        "ceiling_share_goal": shape.goal,
        "efficiency": speed["base"] / speed["bare"],
        "efficiency_goal": EFFICIENCY_GOAL,
        "peak_memory_gib": peak_bytes / GIB,
        "nats_per_token": {"base": bench.score(0) / bench.num_tokens, "bare": bench.bare_nats() / bench.num_tokens},
        "counts": asdict(counts),
        "shape": asdict(shape),
    }


def count_flop(adapter: CausalLM, batches: Sequence[TokenBatch]) -> dict[str, int]:
    """Floating-point operations of the base pass as torch counts them; attention apart, and not yet causal."""

    def attention(query: Any, key: Any, *_: object, **__: object) -> int:
        return int(4 * math.prod(query) * key[2])  # shapes (B, heads, T, D); keys may have fewer heads

    with (
        FlopCounterMode(display=False, custom_mapping=dict.fromkeys(FUSED_ATTENTION, attention)) as counter,
        torch.inference_mode(),
        plain_kernels(),
    ):
        for batch in batches:
            adapter.loss(batch)
    counts = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    in_attention = sum(count for operation, count in counts.items() if "attention" in operation or "bmm" in operation)
    return {"products": sum(counts.values()) - in_attention, "attention": in_attention}


def timed_in_turns(runs: dict[str, Callable[[], object]], num_repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turns so that a slow moment meets all of them; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number}, {name}: {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def render(name: str, found: dict[str, Any]) -> str:
    speeds = "  ".join(f"{way} {speed:,.0f}" for way, speed in found["tokens_per_second"].items())
    goal = f" (goal {found['ceiling_share_goal']})" if found["ceiling_share_goal"] else ""
    return (
        f"{name}: {found['num_parameters']:,} parameters, {found['num_tokens']:,} tokens, padding "
        f"{found['padding_share']:.1%}, updates move {found['moves']}\n  tokens/s: {speeds}\n"
        f"  {found['tflops']:,.4g} TFLOP/s of {found['ceiling_tflops']:,.4g}: {found['ceiling_share']:.2f}{goal}; "
        f"efficiency {found['efficiency']:.3f} (goal {found['efficiency_goal']})\n"
        f"  peak memory {found['peak_memory_gib']:.2f} GiB; weights moved in {found['move_seconds']:.3f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["all", *SHAPES], default="all")
    parser.add_argument("--rows", type=int, help="default: as many as the shape says")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--queries", type=int, default=164)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in SHAPES if name != "tiny"] if arguments.shape == "all" else [arguments.shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
        if names != ["tiny"]:
            names = []
            print(NO_GPU)
    counts = Counts(arguments.updates, arguments.queries, arguments.rank, arguments.repeats, arguments.compile)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    found: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "shapes": {}}
    for name in names:
        shape = SHAPES[name] if arguments.rows is None else replace(SHAPES[name], num_rows=arguments.rows)
        found["shapes"][name] = measure(shape, device, counts)
        print(render(name, found["shapes"][name]))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
