"""The shared trunk: the same losses bit for bit, and the blocks below the moved ones run once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_classifiers import NUM_CLASSES, as_rows, examples, tiny_mlp
from tiny_models import CONTEXT, VOCABULARY, cut, tiny_row
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from finf_core.adapter import Adapter
from finf_core.causal_lm import CausalLM
from finf_core.classifier import Classifier
from finf_core.moving import block_list, moved, moving_parameters
from finf_core.scoring import RowLosses, score_rows
from finf_core.spec import Difference, UpdateSpec
from finf_core.trunk import SharedTrunk
from finf_core.updates import MirroredUpdate, mirrored_update

NUM_BLOCKS = 4
BATCH_TOKENS = 24  # several batches, with padding in them
ROWS = [cut(tiny_row(length, seed=length)) for length in (5, 30, 12, 3, 9, 17)]  # rows of up to four windows
DERIVATIVE = 1e-6  # float32: attention is computed another way in forward mode

WIDE: Any = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": NUM_BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED: Any = WIDE | {"num_key_value_heads": 2, "head_dim": 4}
SHAPES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "qwen3": Qwen3Config(**GROUPED),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=16,
        n_layer=NUM_BLOCKS,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neox": GPTNeoXConfig(**WIDE),
}
LAST_NORM = {"llama": "model.norm", "qwen2": "model.norm", "qwen3": "model.norm"} | {
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}
EMBEDDING = {"llama": "model.embed_tokens", "qwen2": "model.embed_tokens", "qwen3": "model.embed_tokens"} | {
    "gpt2": "transformer.wte",  # tied to the head
    "gpt_neox": "gpt_neox.embed_in",
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def tiny(shape: str, dtype: torch.dtype = torch.float32) -> CausalLM:
    """Random weights, large enough that each block changes every loss by much."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]).to(dtype)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return CausalLM(model)


def update_of(adapter: Adapter, moves: str, difference: Difference = "forward", seed: int = 1) -> MirroredUpdate:
    """A random one: what is under test is the pass, not the direction."""
    generator = torch.Generator().manual_seed(seed)
    parameters = moving_parameters(adapter.module, moves)
    deltas = {name: 0.1 * torch.randn(part.shape, generator=generator) for name, part in parameters.items()}
    return MirroredUpdate(deltas, "ascent", difference, 1.0, 3, 0.1, 1.0)


def updates_of(adapter: Adapter, *moves: str, difference: Difference = "forward") -> list[MirroredUpdate]:
    return [update_of(adapter, name, difference, seed) for seed, name in enumerate(moves)]


def score(adapter: Adapter, updates: Sequence[MirroredUpdate], share_trunk: bool = True, rows: Any = ROWS) -> RowLosses:
    return score_rows(adapter, rows, updates, BATCH_TOKENS, share_trunk)


def same(one: RowLosses, other: RowLosses) -> bool:
    return all(np.array_equal(*pair, equal_nan=True) for pair in zip(astuple(one), astuple(other), strict=True))


@contextmanager
def counting(adapter: Adapter) -> Iterator[Counter[int]]:
    """How often each block really computed: seen at the first of its layers that holds a matrix."""
    counts: Counter[int] = Counter()

    def layer_of(block: nn.Module) -> nn.Module:
        return next(part for part in block.modules() if any(p.ndim == 2 for p in part.parameters(recurse=False)))

    def count(index: int) -> Any:
        return lambda *_: counts.update([index])

    hooks = [layer_of(part).register_forward_hook(count(i)) for i, part in enumerate(block_list(adapter.module)[1])]
    yield counts
    for hook in hooks:
        hook.remove()


def num_batches(adapter: Adapter) -> int:
    with counting(adapter) as counts:
        score(adapter, [], share_trunk=False)
    return counts[0]


# ---- the same numbers ------------------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("moves", ["last:1", "last:2", "all"])
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_every_loss_is_bit_equal_to_that_of_whole_passes(shape: str, moves: str, difference: Difference) -> None:
    adapter = tiny(shape)
    updates = updates_of(adapter, moves, moves, moves, difference=difference)
    whole = score(adapter, updates, share_trunk=False)
    assert same(score(adapter, updates), whole)
    assert np.abs(whole.mirrored_nats_RQ - whole.base_nats_R[:, None]).max(axis=0).min() > 0.1  # each query did move


@every_shape
def test_the_derivative_is_the_same_to_rounding(shape: str) -> None:
    adapter = tiny(shape)
    updates = updates_of(adapter, "last:1", "last:2", difference="jvp")
    shared, whole = score(adapter, updates), score(adapter, updates, share_trunk=False)
    np.testing.assert_array_equal(shared.base_nats_R, whole.base_nats_R)
    np.testing.assert_allclose(shared.mirrored_nats_RQ, whole.mirrored_nats_RQ, rtol=DERIVATIVE)


def test_nothing_is_kept_of_a_derivative_s_own_pass() -> None:
    """It rounds in its own way: the plain query after it, whose blocks it ran first, must not get its hidden states."""
    adapter = tiny("llama")
    last, low, plain = (update_of(adapter, f"last:{count}", seed=count) for count in (1, 2, 2))
    updates = [last, replace(low, difference="jvp"), plain]
    shared, whole = score(adapter, updates), score(adapter, updates, share_trunk=False)
    np.testing.assert_array_equal(shared.mirrored_nats_RQ[:, 2], whole.mirrored_nats_RQ[:, 2])


def test_bfloat16_losses_are_bit_equal_too() -> None:
    adapter = tiny("llama", torch.bfloat16)
    updates = updates_of(adapter, "last:1", "last:2")
    assert same(score(adapter, updates), score(adapter, updates, share_trunk=False))


def test_a_solved_update_is_scored_the_same() -> None:
    adapter = tiny("llama")
    spec = UpdateSpec(kind="sgd", moves="last:2")
    updates = [mirrored_update(adapter, cut(tiny_row(9, seed)), spec) for seed in (50, 51)]
    assert same(score(adapter, updates), score(adapter, updates, share_trunk=False))


# ---- the trunk is run once -------------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("last", [1, 2])
def test_blocks_below_the_moved_ones_compute_once_for_all_queries(shape: str, last: int) -> None:
    adapter = tiny(shape)
    batches = num_batches(adapter)
    assert batches > 3
    with counting(adapter) as counts:
        score(adapter, updates_of(adapter, *[f"last:{last}"] * 5))
    tail_runs = 6 * batches + 1  # base, five queries; once more, to see that the replay repeats the losses
    first = NUM_BLOCKS - last
    assert [counts[i] for i in range(NUM_BLOCKS)] == [batches] * first + [tail_runs] * last


@pytest.mark.parametrize(("difference", "passes"), [("central", 2), ("jvp", 1)])
def test_the_trunk_serves_every_kind_of_difference(difference: Difference, passes: int) -> None:
    adapter = tiny("llama")
    batches = num_batches(adapter)
    with counting(adapter) as counts:
        score(adapter, updates_of(adapter, "last:1", "last:1", difference=difference))
    assert (counts[0], counts[NUM_BLOCKS - 1]) == (batches, (1 + 2 * passes) * batches + 1)


@every_shape
def test_what_comes_after_the_blocks_may_move_and_no_block_computes_again(shape: str) -> None:
    adapter = tiny(shape)
    updates = updates_of(adapter, f"{LAST_NORM[shape]}.*", f"{LAST_NORM[shape]}.*")
    with counting(adapter) as counts:
        shared = score(adapter, updates)
    assert set(counts.values()) == {num_batches(adapter)}
    assert same(shared, score(adapter, updates, share_trunk=False))


# ---- what must not be served from it ---------------------------------------------------------------------------------


@every_shape
def test_what_comes_before_the_blocks_is_never_served_from_the_trunk(shape: str) -> None:
    """An embedding moved alone, or (GPT-2) together with the head that is tied to it, or with the last block."""
    adapter = tiny(shape)
    pattern = f"{EMBEDDING[shape]}.*"
    alone = update_of(adapter, pattern)
    both = replace(alone, deltas={**alone.deltas, **update_of(adapter, "last:1").deltas})
    updates = [alone, both, update_of(adapter, "last:1"), both]
    assert same(score(adapter, updates), score(adapter, updates, share_trunk=False))


def first_block(adapter: Adapter) -> str:
    return f"{block_list(adapter.module)[0]}.0.*"


@every_shape
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 0, 1)])
def test_a_moved_first_block_is_never_served_from_the_trunk(shape: str, order: Sequence[int]) -> None:
    adapter = tiny(shape)
    choices = [first_block(adapter), "last:1"]
    updates = updates_of(adapter, *(choices[index] for index in order))
    assert same(score(adapter, updates), score(adapter, updates, share_trunk=False))


def test_the_lowest_moved_block_decides_query_by_query() -> None:
    """The trunk of last:3 serves last:1 too; last:4 moves all blocks."""
    adapter = tiny("llama")
    batches = num_batches(adapter)
    updates = updates_of(adapter, "last:2", "last:1", "last:3", "last:1", "last:4", "last:3", difference="forward")
    with counting(adapter) as counts:
        shared = score(adapter, updates)
    assert same(shared, score(adapter, updates, share_trunk=False))
    # block 0: base, last:3 (which keeps the smaller trunk) and last:4; block 1: also the last of last:1 and last:3
    assert (counts[0], counts[1]) == (3 * batches, 5 * batches + 1)


def test_a_trunk_kept_while_something_above_it_was_moved_serves_the_next_query() -> None:
    adapter = tiny("llama")
    plain = [update_of(adapter, "last:1", seed=seed) for seed in range(3)]
    trunk = SharedTrunk(adapter)
    batch = adapter.collate([window for row in ROWS for window in row])
    with counting(adapter) as counts, torch.inference_mode():
        for update in plain:
            trunk.move(update.deltas)
            with moved(adapter.module, update.deltas):
                torch.testing.assert_close(trunk.loss(batch), adapter.loss(batch), rtol=0, atol=0)
    assert counts[0] == 1 + len(plain)  # the adapter's own passes, and one of ours


# ---- models that are no chain of blocks ------------------------------------------------------------------------------


class Chain(nn.Module):
    """Four blocks, which a subclass may wire in its own way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(NUM_BLOCKS))
        self.head = nn.Linear(5, NUM_CLASSES)

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BD = block(x_BD)
        logits_BC: Tensor = self.head(x_BD)
        return logits_BC


class Skipping(Chain):
    """What the second block returns is read again in the end."""

    def forward(self, x_BD: Tensor) -> Tensor:
        hidden = [x_BD]
        for block in self.blocks:
            hidden.append(block(hidden[-1]))
        logits_BC: Tensor = self.head(hidden[-1] + hidden[2])
        return logits_BC


class Looping(Chain):
    """All blocks run twice: the lower ones a second time, on what the upper ones gave."""

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in [*self.blocks, *self.blocks]:
            x_BD = block(x_BD)
        logits_BC: Tensor = self.head(x_BD)
        return logits_BC


class Backwards(Chain):
    """The blocks run from the last to the first."""

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in reversed(self.blocks):
            x_BD = block(x_BD)
        logits_BC: Tensor = self.head(x_BD)
        return logits_BC


class LeavingOut(Chain):
    """The block just below the last one never runs."""

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in [*self.blocks[:2], self.blocks[3]]:
            x_BD = block(x_BD)
        logits_BC: Tensor = self.head(x_BD)
        return logits_BC


class Writing(Chain):
    """The head's layer writes into what the last block returned: the kept result must be a copy, each time anew."""

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BD = block(x_BD)
        logits_BC: Tensor = self.head(x_BD.mul_(2.0))
        return logits_BC


CLASSIFIED = as_rows(examples((5,), 60))


class Expert(nn.Module):
    """A block with a part that only the last, smaller batch reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x_BD: Tensor) -> Tensor:
        out_BD: Tensor = self.always(x_BD)
        return torch.tanh(self.sometimes(out_BD) if len(x_BD) < BATCH_TOKENS else out_BD)


def test_a_moved_part_that_a_batch_does_not_reach_is_no_reason_to_run_whole() -> None:
    model = Chain()
    model.blocks[NUM_BLOCKS - 1] = Expert()
    adapter = Classifier(model)
    updates = updates_of(adapter, *["last:1"] * 3)
    with counting(adapter) as counts:
        shared = score(adapter, updates, rows=CLASSIFIED)
    assert counts[0] == 3  # batches
    assert same(shared, score(adapter, updates, share_trunk=False, rows=CLASSIFIED))


def test_rows_whose_loss_is_not_a_number_are_served_too() -> None:
    adapter = Classifier(Chain())
    rows = [*CLASSIFIED, [replace(CLASSIFIED[0][0], features=torch.full((5,), torch.nan))]]
    updates = updates_of(adapter, *["last:1"] * 3)
    with counting(adapter) as counts:
        shared = score_rows(adapter, rows, updates, batch_tokens=len(rows))
    assert counts[0] == 1
    assert np.isnan(shared.base_nats_R[-1])
    assert same(shared, score_rows(adapter, rows, updates, batch_tokens=len(rows), share_trunk=False))


@pytest.mark.parametrize(("wiring", "runs"), [(Chain, 1), (Skipping, 4), (Looping, 8), (Backwards, 4), (LeavingOut, 4)])
def test_a_model_that_is_no_chain_of_blocks_is_run_whole(wiring: type[Chain], runs: int) -> None:
    """The base pass and three queries; the chain itself needs one run of its first block."""
    adapter = Classifier(wiring())
    updates = updates_of(adapter, *["last:1"] * 3)
    with counting(adapter) as counts:
        shared = score(adapter, updates, rows=CLASSIFIED)
    assert counts[0] == 3 * runs  # three batches
    assert same(shared, score(adapter, updates, share_trunk=False, rows=CLASSIFIED))


def test_a_model_that_writes_into_hidden_states_is_served_unharmed() -> None:
    adapter = Classifier(Writing())
    updates = updates_of(adapter, *["head.*"] * 3)
    with counting(adapter) as counts:
        shared = score(adapter, updates, rows=CLASSIFIED)
    assert counts[0] == 3  # batches
    assert same(shared, score(adapter, updates, share_trunk=False, rows=CLASSIFIED))


def test_a_model_without_blocks_scores_as_before() -> None:
    adapter, rows = tiny_mlp(), as_rows(examples((5,), 12))
    updates = updates_of(adapter, "all", "2.*")
    assert same(score(adapter, updates, rows=rows), score(adapter, updates, share_trunk=False, rows=rows))


def test_only_as_many_bytes_are_kept_as_allowed() -> None:
    """A batch here is up to 24 tokens of 16 float32: 1,536 bytes. The others run whole, with the same losses."""
    adapter = tiny("llama")
    update = update_of(adapter, "last:1")
    batches = [adapter.collate(row) for row in ROWS for _ in range(2)]
    trunk = SharedTrunk(adapter, most_bytes=3000)
    trunk.move(update.deltas)
    with counting(adapter) as counts, torch.inference_mode(), moved(adapter.module, update.deltas):
        for _ in range(2):
            for batch in batches:
                assert torch.equal(trunk.loss(batch).sum_nats, adapter.loss(batch).sum_nats)
    own = counts[0] - 2 * len(batches)
    assert len(batches) < own < 2 * len(batches)


# ---- the model is left as it was -------------------------------------------------------------------------------------


class PlantedError(Exception):
    pass


@every_shape
@pytest.mark.parametrize("call", [1, 2, 10])
def test_an_error_on_the_way_leaves_no_trace_in_the_model(shape: str, call: int) -> None:
    """In the base pass, in the first replay, and while a query is scored."""
    adapter = tiny(shape)
    updates = updates_of(adapter, *["last:1"] * 3)
    expected = score(adapter, updates)
    calls = iter(range(1, 1000))

    def fail(*_: Any) -> None:
        if next(calls) == call:
            raise PlantedError

    hook = adapter.module.get_submodule(LAST_NORM[shape]).register_forward_pre_hook(fail)
    with pytest.raises(PlantedError):
        score(adapter, updates)
    hook.remove()
    for part in adapter.module.modules():
        assert "forward" not in vars(part)
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert same(score(adapter, updates), expected)


def test_a_forward_that_was_replaced_by_others_is_put_back() -> None:
    """Some libraries wrap `forward` on the instance; theirs runs, and is there afterwards."""
    adapter = tiny("llama")
    block = block_list(adapter.module)[1][0]
    theirs = type(block).forward.__get__(block)
    vars(block)["forward"] = theirs
    updates = updates_of(adapter, "last:1", "last:1")
    with counting(adapter) as counts:
        score(adapter, updates)
    assert vars(block)["forward"] is theirs
    assert counts[0] == num_batches(adapter)
