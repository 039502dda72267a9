"""What the shared trunk saves, and whether tails are better run one query after the other or stacked.

python -m benchmarks.trunk [--queries 16] [--rounds 5] [--json]

A Llama of eight blocks with random weights, random rows, 16 queries that move the last one or two blocks; one thread.
Measured in turns within one run, medians:

- `trunk_speedup`: time of `score_rows` without the trunk over its time with it, base pass and statistics included.
  Beside it what it could be at best: the same in blocks run, and in FLOPs counted (the head is run for every query).
- `stacked_over_swapped`: time of all tails at once (moved parameters stacked, `vmap` over queries) over that of one
  tail after the other (parameters swapped), on the same kept hidden states. Above 1, swapping is faster. Stacked tails
  are run with fused attention, over which `vmap` has to loop, and with plain attention; the faster one counts.

2026-11-22, two runs on 2 busy CPU cores: stacked over swapped 0.98 and 1.07 (last block), 0.98 and 1.01 (last two): no
difference above the noise, so `score_rows` swaps, which holds one query's parameters and activations at a time.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from finf_core.adapter import Adapter
from finf_core.causal_lm import CausalLM
from finf_core.differences import mirrored_nats, target_nats
from finf_core.errors import FinfError
from finf_core.moving import moving_parameters
from finf_core.scoring import score_rows
from finf_core.trunk import SharedTrunk
from finf_core.updates import MirroredUpdate
from finf_core.windows import Window, split_into_windows

LLAMA = LlamaConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=344,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
NUM_BLOCKS = LLAMA.num_hidden_layers
NUM_ROWS, ROW_TOKENS, BATCH_TOKENS = 16, 96, 512
CLOSE = 1e-3  # nats of a target, stacked against swapped, float32

Timed = Mapping[str, Callable[[], Any]]


class BatchLoss(nn.Module):
    """An adapter's target losses as a module's forward pass, so that its parameters can be exchanged for one call."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.module, self.adapter = adapter.module, adapter

    def forward(self, batch: Any) -> Tensor:
        return target_nats(self.adapter.loss(batch))


def measure(num_queries: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    adapter = CausalLM(LlamaForCausalLM(LLAMA))
    found = {f"last_{count}": measure_last(adapter, count, num_queries, rounds) for count in (1, 2)}
    return {"num_queries": num_queries, "num_blocks": NUM_BLOCKS, "rounds": rounds, **found}


def measure_last(adapter: CausalLM, count: int, num_queries: int, rounds: int) -> dict[str, float]:
    """Queries that move the last `count` blocks."""
    rows = [random_row(seed) for seed in range(NUM_ROWS)]
    updates = [random_update(adapter, f"last:{count}", seed) for seed in range(num_queries)]
    passes: Timed = {
        "whole": lambda: score_rows(adapter, rows, updates, BATCH_TOKENS, share_trunk=False),
        "shared": lambda: score_rows(adapter, rows, updates, BATCH_TOKENS),
    }
    flops = {name: count_flops(run) for name, run in passes.items()}
    seconds = median_seconds({**passes, **tails(adapter, rows, updates)}, rounds)
    return {
        "trunk_speedup": seconds["whole"] / seconds["shared"],
        "ideal_speedup_flops": flops["whole"] / flops["shared"],
        "ideal_speedup_blocks": (1 + num_queries) * NUM_BLOCKS / (NUM_BLOCKS + num_queries * count),
        "stacked_over_swapped": min(seconds["stacked_fused"], seconds["stacked_plain"]) / seconds["swapped"],
        **{f"{name}_seconds": value for name, value in seconds.items()},
    }


def random_row(seed: int) -> list[Window]:
    tokens = np.random.default_rng(seed).integers(LLAMA.vocab_size, size=ROW_TOKENS)
    return split_into_windows(tokens, LLAMA.max_position_embeddings, 0)


def random_update(adapter: CausalLM, moves: str, seed: int) -> MirroredUpdate:
    """Moves as many numbers as a solved one does; which way makes no difference to the time."""
    generator = torch.Generator().manual_seed(seed)
    parameters = moving_parameters(adapter.module, moves)
    deltas = {name: 0.01 * torch.randn(part.shape, generator=generator) for name, part in parameters.items()}
    return MirroredUpdate(deltas, "ascent", "forward", 1.0, 32, 0.1, 1.0)


def tails(adapter: CausalLM, rows: Sequence[Sequence[Window]], updates: Sequence[MirroredUpdate]) -> Timed:
    """The tails of all queries on kept hidden states, each way; all ways give the same losses."""
    trunk = SharedTrunk(adapter)
    per_batch = BATCH_TOKENS // ROW_TOKENS
    windows = [window for row in rows for window in row]
    batches = [adapter.collate(windows[start : start + per_batch]) for start in range(0, len(windows), per_batch)]
    trunk.expect(updates[0].deltas)
    with torch.inference_mode():
        for batch in batches:
            trunk.loss(batch)
    trunk.move(updates[0].deltas)  # all move the same parameters
    module = BatchLoss(trunk)
    stack = {
        f"module.{name}": torch.stack([adapter.module.get_parameter(name) + update.deltas[name] for update in updates])
        for name in updates[0].deltas
    }

    def swapped() -> list[Tensor]:
        nats = [mirrored_nats(trunk, batches, update.deltas, "forward") for update in updates]
        return [torch.stack(of_queries) for of_queries in zip(*nats, strict=True)]

    def stacked() -> list[Tensor]:
        with torch.inference_mode():
            return [vmap(lambda moved, b=batch: functional_call(module, moved, (b,)))(stack) for batch in batches]

    def stacked_plain() -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            return stacked()

    for other in (stacked, stacked_plain):
        gap = max(float((a - b).abs().max()) for a, b in zip(swapped(), other(), strict=True))
        if not gap <= CLOSE:
            raise FinfError(f"stacked and swapped tails differ by {gap:.3g} nats: their times cannot be compared")
    return {"swapped": swapped, "stacked_fused": stacked, "stacked_plain": stacked_plain}


def count_flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def median_seconds(runs: Timed, rounds: int) -> dict[str, float]:
    """Each in turn, round after round, so that a slow moment of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="There is a performance drop")  # vmap's loops: what is measured here
    found = measure(arguments.queries, arguments.rounds)
    print(json.dumps(found) if arguments.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
