"""164 queries on one GPU, with a model 30 times the demo's: what precision and strategy do to recall, and to time.

The inputs of `benchmarks.many_queries` (standard library functions, 40 HumanEval items planted verbatim, 60 renamed, 64
clean queries; loss on the solution) are tokenised where there is no GPU (`--prepare`). On the GPU, with `finf_core`
alone, a Llama of 26 M parameters is trained on them in float32. Then, for the weights in float32 and in bfloat16:

- `guard`: signal over noise of each way to take a difference (`finf_core.precision`) on 32 rows and 4 queries.
- `one_pass`: the pass for all queries (last third of the blocks, 64 directions), the best `--kept` rows of each query,
  and these scored with the whole update, as a scan does it. `kept` is the share of planted rows that are among them.
- `every_query`: every row for every query; in float32 only, as the truth that the others are held against.
- `rank 32`: the kept rows under updates cut to 32 directions of each matrix (`update.rank`), in float32.

Recall is that of the planted rows among the first five by `control_z`.

python -m benchmarks.gpu_queries --prepare INPUTS.npz [--functions N]
python -m benchmarks.gpu_queries INPUTS.npz [--epochs N] [--kept N] [--json]
"""

import argparse
import copy
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM

from finf_core import CausalLM, Window, score_rows
from finf_core.adjoint import row_changes
from finf_core.batches import plan_batches
from finf_core.curvature import Curvature, fit_curvature
from finf_core.errors import InputError
from finf_core.precision import choose_precision, describe
from finf_core.projection import fit_projection, last_blocks, projectable_layers
from finf_core.ranking import rank_changes, rank_rows
from finf_core.scores import Floats, Others
from finf_core.spec import RankSpec, UpdateSpec
from finf_core.updates import MirroredUpdate, mirrored_update

Rows = list[list[Window]]

MODEL = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
INITIAL_SPREAD, LEARNING_RATE, TRAIN_TOKENS, WARMUP_SHARE = 0.04, 1e-3, 1024, 0.05
BATCH_TOKENS, GRADIENT_TOKENS = 16384, 4096
GUARD_ROWS, GUARD_QUERIES = 32, 4
RANK = RankSpec(by="control_z")
KINDS = ("verbatim", "renamed")


class Inputs:
    """Rows and queries as windows, and which row belongs to which query."""

    def __init__(self, file: Path) -> None:
        self.arrays = dict(np.load(file))
        self.vocabulary = int(self.arrays["vocabulary"])
        self.rows, self.queries = self._windows("rows"), self._windows("queries")
        self.kinds = self.arrays["kinds"].tolist()
        self.true_rows: list[int] = self.arrays["true_rows"].tolist()  # -1: none
        self.num_targets_Q = np.array([sum(int((w.labels >= 0).sum()) for w in query) for query in self.queries])

    def _windows(self, name: str) -> Rows:
        ends = np.cumsum(self.arrays[f"{name}_lengths"])[:-1]
        parts = (np.split(self.arrays[f"{name}_{part}"].astype(np.int64), ends) for part in ("inputs", "labels"))
        return [[Window(*pair)] for pair in zip(*parts, strict=True)]

    def recalls(self, order_RQ: Floats) -> dict[str, float]:
        """Recall@5 of each kind, and of all."""
        best = np.argsort(-np.where(np.isfinite(order_RQ), order_RQ, -np.inf), axis=0, kind="stable")[:5]
        return self._shares([true in best[:, query] for query, true in enumerate(self.true_rows)])

    def kept_shares(self, kept: Sequence[Any]) -> dict[str, float]:
        return self._shares([true in rows for true, rows in zip(self.true_rows, kept, strict=True)])

    def _shares(self, found: Sequence[bool]) -> dict[str, float]:
        of_kind = {kind: [hit for hit, its in zip(found, self.kinds, strict=True) if its == kind] for kind in KINDS}
        of_kind["all"] = [hit for hits in of_kind.values() for hit in hits]
        return {kind: float(np.mean(hits)) for kind, hits in of_kind.items()}


def prepare(file: Path, num_functions: int) -> None:
    """Needs what the demo needs; the model that it trains on the way lends its tokenizer only."""
    from benchmarks.many_queries import NUM_CLEAN, NUM_RENAMED, NUM_VERBATIM
    from benchmarks.peer_inputs import load_inputs
    from flows.demo import DemoSize, prepare_demo
    from tasks.demo.train import TrainSettings

    with tempfile.TemporaryDirectory() as folder:
        size = DemoSize(num_functions, NUM_VERBATIM, NUM_RENAMED, NUM_CLEAN, train=TrainSettings(num_epochs=1))
        found = load_inputs(prepare_demo(Path(folder), size))
        arrays: dict[str, Any] = {
            "vocabulary": found.adapter.num_vocabulary,
            "kinds": np.array(found.kinds),
            "true_rows": np.array([-1 if row is None else row for row in found.true_rows]),
        }
    for name, rows in (("rows", found.row_windows), ("queries", found.query_windows)):
        windows = [window for [window] in rows]
        arrays[f"{name}_lengths"] = np.array([len(window) for window in windows])
        arrays[f"{name}_inputs"] = np.concatenate([window.input_ids for window in windows]).astype(np.int32)
        arrays[f"{name}_labels"] = np.concatenate([window.labels for window in windows]).astype(np.int32)
    np.savez_compressed(file, **arrays)


def train(inputs: Inputs, device: str, num_epochs: int) -> LlamaForCausalLM:
    """As the demo trains its own: small batches, a large learning rate, no weight decay: it is to memorise."""
    torch.manual_seed(0)
    longest = max(len(window) for [window] in inputs.rows + inputs.queries)
    config = LlamaConfig(
        vocab_size=inputs.vocabulary,
        max_position_embeddings=longest,
        initializer_range=INITIAL_SPREAD,
        tie_word_embeddings=True,
        use_cache=False,
        **MODEL,
    )
    model = LlamaForCausalLM(config).to(device)
    plan = plan_batches([len(window) for [window] in inputs.rows], TRAIN_TOKENS)
    collate = CausalLM(model).collate
    batches = [collate([inputs.rows[index][0] for index in indices]) for indices in plan]
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    num_steps, rng, step = num_epochs * len(batches), random.Random(0), 0
    torch.set_float32_matmul_precision("high")
    for _ in range(num_epochs):
        for batch in rng.sample(batches, len(batches)):
            step += 1
            done = step / (num_steps + 1)
            share = done / WARMUP_SHARE if done < WARMUP_SHARE else (1 + np.cos(np.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * share
            logits = model(input_ids=batch.input_ids_BT).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten())
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    torch.set_float32_matmul_precision("highest")
    return model


class Clock:
    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def lap(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name], self.last = round(now - self.last, 3), now


def measure(inputs: Inputs, adapter: CausalLM, num_kept: int, is_reference: bool) -> dict[str, Any]:
    """All that is measured of one model in one precision."""
    seconds: dict[str, float] = {}
    clock = Clock(seconds)
    spec = UpdateSpec(kind="kfac")
    curvature = fit_curvature(adapter, inputs.rows[: spec.curvature_rows], spec, GRADIENT_TOKENS)
    clock.lap("fit curvature")
    guard, spec = _guard(inputs, adapter, spec, curvature)
    clock.lap("check precision")
    updates = [mirrored_update(adapter, query, spec, curvature) for query in inputs.queries]
    clock.lap("solve updates")
    layers = last_blocks(adapter.module, projectable_layers(adapter.module, updates[0].deltas, adapter.head), None)
    projection = fit_projection(layers, lambda: (update.deltas for update in updates), 64)
    own = row_changes(adapter, inputs.queries, projection, GRADIENT_TOKENS)
    moved_Q = np.diagonal(own.change_RQ) / own.num_targets_R
    clock.lap("project updates")
    changes = row_changes(adapter, inputs.rows, projection, GRADIENT_TOKENS)
    first = rank_changes(changes, moved_Q, inputs.num_targets_Q, replace(RANK, top_k=num_kept, mirror_k=num_kept // 4))
    clock.lap("first pass")
    found = {"guard": guard, "difference": spec.difference, "kept": inputs.kept_shares(first.kept)}
    found["first pass alone"] = inputs.recalls(first.control_z_RQ)
    found["one_pass"] = inputs.recalls(_rescored(inputs, adapter, updates, first.kept, first.others))
    clock.lap("score kept rows")
    if is_reference:
        cut = UpdateSpec(kind="kfac", difference=spec.difference, rank=32)
        narrow = [mirrored_update(adapter, query, cut, curvature) for query in inputs.queries]
        found["rank 32"] = inputs.recalls(_rescored(inputs, adapter, narrow, first.kept, first.others))
        clock.lap("rank 32")
        losses = score_rows(adapter, inputs.rows, iter(updates), BATCH_TOKENS)
        every = rank_rows(losses, *_numbers(updates), "ascent", RANK)
        found["every_query"] = inputs.recalls(every.control_z_RQ)
        clock.lap("every_query")
    return found | {"seconds": seconds}


def _guard(
    inputs: Inputs, adapter: CausalLM, spec: UpdateSpec, curvature: Curvature | None
) -> tuple[dict[str, str], UpdateSpec]:
    """What each way to take a difference reaches, and the update with the one that is chosen."""
    rows = inputs.rows[:GUARD_ROWS]
    queries = inputs.queries[:: len(inputs.queries) // GUARD_QUERIES][:GUARD_QUERIES]
    precision, trials = choose_precision(adapter, rows, queries, spec, curvature, BATCH_TOKENS)
    return {str(trial.precision): describe(trial) for trial in trials}, precision.apply(spec)


def _rescored(
    inputs: Inputs, adapter: CausalLM, updates: Sequence[MirroredUpdate], kept: Sequence[Any], others: Others
) -> Floats:
    """`control_z` of each query's kept rows under its whole update; −inf for all others."""
    z_RQ = np.full((len(inputs.rows), len(updates)), -np.inf)
    for query, (update, rows) in enumerate(zip(updates, kept, strict=True)):
        losses = score_rows(adapter, [inputs.rows[row] for row in rows], [update], BATCH_TOKENS)
        theirs = Others(*(part_RQ[rows, query][:, None] for part_RQ in others))
        z_RQ[rows, query] = rank_rows(losses, *_numbers([update]), "ascent", RANK, theirs).control_z_RQ[:, 0]
    return z_RQ


def _numbers(updates: Sequence[MirroredUpdate]) -> tuple[Floats, Any]:
    return np.array([update.moved_nats for update in updates]), np.array([update.num_targets for update in updates])


def models(inputs: Inputs, device: str, num_epochs: int) -> Iterator[tuple[str, CausalLM]]:
    """The trained model in both precisions; on a GPU compiled, as a scan runs it."""
    model = train(inputs, device, num_epochs)
    for dtype in (torch.float32, torch.bfloat16):
        yield str(dtype).removeprefix("torch."), CausalLM(copy.deepcopy(model).to(dtype), compiled=device == "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--functions", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--kept", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.inputs, arguments.functions)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = Inputs(arguments.inputs)
    started = time.perf_counter()
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name() if device == "cuda" else None}
    found |= {"num_rows": len(inputs.rows), "num_tokens": int(inputs.arrays["rows_lengths"].sum())}
    for name, adapter in models(inputs, device, arguments.epochs):
        found.setdefault("train_seconds", time.perf_counter() - started)
        found["base_nats_per_token"] = float(
            score_rows(adapter, inputs.rows, [], BATCH_TOKENS).base_nats_R.sum() / found["num_tokens"]
        )
        try:
            found[name] = measure(inputs, adapter, arguments.kept, name == "float32")
        except InputError as error:
            found[name] = {"error": str(error)}
        print(f"{name}: {json.dumps(found[name], indent=2)}", flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
