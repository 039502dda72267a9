"""Which way of running the forward pass is fastest on a CPU: how rows are batched, compiled and turned into losses.

Rows are the demo's corpus (standard library functions and planted problems, in its own tokenizer's tokens), in row
groups of 128 as finf reads them; weights are random, one thread. Two Llamas: the demo's, and one 13 times as large.

- `padded N`: rows sorted by length inside a row group, N padded tokens a batch (`finf_core.batches`); `padded 2048` is
  what finf does today, and what every speed is divided by.
- `packed N`: no padding. Rows stand one after the other in one sequence, positions start anew with each row, and
  `transformers` makes the block-diagonal mask from that.
- `compiled`: `padded 2048` with the base model under torch.compile, dynamic shapes, compile time apart. `compiled
  blocks`: each block on its own; under the compiler `transformers` makes a mask where causal attention would do, and
  so that is left outside.
- `whole logits`: the head on all positions of a batch at once, padding too; `targets' logits`: on all targets at once.

Variants run in turns in one process. Speeds are of real tokens, medians of `--repeats` rounds after a first one, in the
seconds that the thread really ran: other work on the machine counts less so. A variant that gives any target another
loss (by more than 1e-4 nats) is reported as wrong.

2026-11-22, two busy cores, demo / larger: batches of 1024 (0.99 / 1.06) and 2048 tokens are about equal, larger ones
lose to padding (0.91 / 0.77 at 4096), and packing never pays (at best 0.72 / 0.94): all rows of a batch meet under its
mask. Compiling gains 5 to 9 % for half a minute to three in every process: only for long scans, and it is not done.

python -m benchmarks.forward [--model demo|larger|both] [--repeats N] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from finf_core import CausalLM, Window, per_example_loss, split_into_windows
from finf_core.batches import plan_batches
from finf_core.causal_lm import TokenBatch
from finf_core.differences import target_nats
from finf_core.losses import IGNORE_INDEX, chunked_example_loss
from finf_core.moving import block_list
from tasks.checkpoint import BATCH_TOKENS
from tasks.demo.corpus import ROW_GROUP_ROWS, read_demo_rows, write_demo_inputs
from tasks.demo.train import TrainSettings, train_tokenizer

DEFAULT_TOKENS = BATCH_TOKENS["cpu"]
DEFAULT = f"padded {DEFAULT_TOKENS}"
SAME_NATS = 1e-4  # of any target
Loss = Callable[[TokenBatch], Tensor]  # nats of every target, row after row
Plan = list[list[int]]


@dataclass(frozen=True)
class Model:
    settings: TrainSettings
    num_row_groups: int


MODELS = {
    "demo": Model(TrainSettings(), num_row_groups=4),
    "larger": Model(
        TrainSettings(hidden_size=384, intermediate_size=1032, num_layers=6, num_heads=6), num_row_groups=1
    ),
}


def corpus_windows(settings: TrainSettings, num_rows: int) -> list[Window]:
    """The first rows of the demo's shuffled corpus, each a window of its own in which every token is a target."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_demo_inputs(
            Path(folder), num_functions=2000, num_verbatim=40, num_renamed=60, num_clean=64, num_shards=1, seed=0
        )
        texts = [row.text for row in read_demo_rows(inputs.corpus)]
    encoded = train_tokenizer(texts, settings.vocab_size)(texts[:num_rows])["input_ids"]
    return [split_into_windows(np.asarray(ids), settings.max_row_tokens, 0)[0] for ids in encoded]


def random_model(settings: TrainSettings) -> CausalLM:
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        max_position_embeddings=settings.max_row_tokens,
        initializer_range=settings.initial_spread,
        tie_word_embeddings=True,
    )
    return CausalLM(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


class Variant:
    """Batches made beforehand, and how the loss of one is taken."""

    def __init__(self, windows: Sequence[Window], plan: Plan, collate: Callable[..., TokenBatch], loss: Loss) -> None:
        self.order = [index for batch in plan for index in batch]
        self.lengths = [len(windows[index]) for index in self.order]
        self.batches = [collate([windows[index] for index in batch]) for batch in plan]
        self.padding_share = 1 - sum(self.lengths) / sum(batch.input_ids_BT.numel() for batch in self.batches)
        self.loss = loss

    @torch.inference_mode()
    def run(self) -> Tensor:
        return torch.cat([self.loss(batch) for batch in self.batches])

    def in_order(self, nats_N: Tensor) -> Tensor:
        pieces = dict(zip(self.order, nats_N.split(self.lengths), strict=True))
        return torch.cat([pieces[index] for index in range(len(pieces))])


def make_variants(settings: TrainSettings, windows: Sequence[Window]) -> dict[str, Variant]:
    adapter, in_blocks = random_model(settings), random_model(settings)
    for block in block_list(in_blocks.module)[1]:
        block.compile(dynamic=True)
    plan = plan_padded(windows, DEFAULT_TOKENS)

    def padded(tokens: int) -> Variant:
        return Variant(windows, plan_padded(windows, tokens), adapter.collate, finf_loss(adapter))

    def packed(tokens: int) -> Variant:
        return Variant(windows, plan_packed(windows, tokens), pack, packed_loss(adapter))

    return {
        **{f"padded {tokens}": padded(tokens) for tokens in (256, 512, 1024, 2048, 4096)},
        **{f"packed {tokens}": packed(tokens) for tokens in (512, 1024, 2048)},
        "compiled": Variant(windows, plan, adapter.collate, compiled_loss(adapter)),
        "compiled blocks": Variant(windows, plan, adapter.collate, finf_loss(in_blocks)),
        "whole logits": Variant(windows, plan, adapter.collate, whole_loss(adapter)),
        "targets' logits": Variant(windows, plan, adapter.collate, targets_loss(adapter)),
    }


def plan_padded(windows: Sequence[Window], batch_tokens: int) -> Plan:
    """Each row group on its own, as finf does."""
    plan: Plan = []
    for start in range(0, len(windows), ROW_GROUP_ROWS):
        lengths = [len(window) for window in windows[start : start + ROW_GROUP_ROWS]]
        plan += [[start + place for place in batch] for batch in plan_batches(lengths, batch_tokens)]
    return plan


def plan_packed(windows: Sequence[Window], batch_tokens: int) -> Plan:
    """Rows in their order, as many as fit; a longer one alone."""
    plan: Plan = [[]]
    for index, window in enumerate(windows):
        if plan[-1] and sum(len(windows[other]) for other in plan[-1]) + len(window) > batch_tokens:
            plan.append([])
        plan[-1].append(index)
    return plan


def pack(windows: Sequence[Window]) -> TokenBatch:
    """One sequence of all rows."""
    ids_T = np.concatenate([window.input_ids for window in windows])
    labels_T = np.concatenate([window.labels for window in windows])
    lengths_B = torch.tensor([len(window) for window in windows])
    return TokenBatch(torch.from_numpy(ids_T)[None], torch.from_numpy(labels_T)[None], lengths_B)


def finf_loss(adapter: CausalLM) -> Loss:
    return lambda batch: target_nats(adapter.loss(batch))


def packed_loss(adapter: CausalLM) -> Loss:
    def loss(batch: TokenBatch) -> Tensor:
        positions_1T = torch.cat([torch.arange(length) for length in batch.lengths_B.tolist()])[None]
        return _chunked(adapter, _hidden(adapter.model.base_model, batch, position_ids=positions_1T), batch)

    return loss


def compiled_loss(adapter: CausalLM) -> Loss:
    base_model = torch.compile(adapter.model.base_model, dynamic=True)
    return lambda batch: _chunked(adapter, _hidden(base_model, batch), batch)


def whole_loss(adapter: CausalLM) -> Loss:
    def loss(batch: TokenBatch) -> Tensor:
        logits_BTV = adapter.head(_hidden(adapter.model.base_model, batch))
        return target_nats(per_example_loss(logits_BTV, batch.labels_BT))

    return loss


def targets_loss(adapter: CausalLM) -> Loss:
    def loss(batch: TokenBatch) -> Tensor:
        is_target_BT = batch.labels_BT != IGNORE_INDEX
        logits_1NV = adapter.head(_hidden(adapter.model.base_model, batch)[is_target_BT])[None]
        return target_nats(per_example_loss(logits_1NV, batch.labels_BT[is_target_BT][None]))

    return loss


def _hidden(base_model: Any, batch: TokenBatch, **arguments: Tensor) -> Tensor:
    hidden: Tensor = base_model(batch.input_ids_BT, use_cache=False, **arguments).last_hidden_state
    return hidden


def _chunked(adapter: CausalLM, hidden_BTD: Tensor, batch: TokenBatch) -> Tensor:
    return target_nats(chunked_example_loss(hidden_BTD, adapter.head, adapter.num_vocabulary, batch.labels_BT))


def measure(model: Model, num_repeats: int) -> dict[str, Any]:
    windows = corpus_windows(model.settings, model.num_row_groups * ROW_GROUP_ROWS)
    variants = make_variants(model.settings, windows)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    nats: dict[str, Tensor] = {}
    first_seconds: dict[str, float] = {}
    for name, variant in variants.items():
        started = time.perf_counter()
        nats[name] = variant.in_order(variant.run())
        first_seconds[name] = time.perf_counter() - started
    for _ in range(num_repeats):
        for name, variant in variants.items():
            started = time.thread_time()
            variant.run()
            seconds[name].append(time.thread_time() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    num_tokens = sum(map(len, windows))
    apart = {name: (nats[name] - nats[DEFAULT]).abs().max().item() for name in variants}
    return {
        "num_rows": len(windows),
        "num_tokens": num_tokens,
        "default_tokens_per_cpu_second": num_tokens / medians[DEFAULT],
        "variants": {
            name: {
                "speed": medians[DEFAULT] / medians[name],
                "padding_share": variants[name].padding_share,
                "first_run_seconds": first_seconds[name],  # by the clock on the wall, compiling included
                "nats_apart": apart[name],
                "right": apart[name] <= SAME_NATS,
            }
            for name in variants
        },
    }


def render(name: str, found: dict[str, Any]) -> str:
    speed = found["default_tokens_per_cpu_second"]
    lines = [f"{name}: {found['num_tokens']:,} tokens; {DEFAULT}: {speed:,.0f} tokens a CPU second; relative to that:"]
    for variant, row in found["variants"].items():
        first = f", first run {row['first_run_seconds']:.0f} s" if "compiled" in variant else ""
        wrong = "" if row["right"] else f", WRONG by {row['nats_apart']:.2g} nats"
        lines.append(f"  {variant:16} {row['speed']:5.2f}  padding {row['padding_share']:5.1%}{first}{wrong}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["both", *MODELS], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = list(MODELS) if arguments.model == "both" else [arguments.model]
    found = {}
    for name in names:
        found[name] = measure(MODELS[name], arguments.repeats)
        print(render(name, found[name]))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
