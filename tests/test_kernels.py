"""Compiled kernels and wide logits (`finf_core.kernels`): what a compiled model gives, a plain one gives too."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, OVERLAP, load_tiny_llama, save_tiny_llama
from torch import Tensor, nn

from finf_core import CausalLM, score_rows, split_into_windows
from finf_core.adjoint import row_changes
from finf_core.curvature import fit_curvature
from finf_core.errors import CheckpointError
from finf_core.kernels import CompiledForward, head_logits
from finf_core.losses import chunked_example_loss
from finf_core.moving import moving_parameters
from finf_core.projection import fit_projection, last_blocks, projectable_layers
from finf_core.spec import Difference, UpdateSpec
from finf_core.trunk import SharedTrunk
from finf_core.updates import MirroredUpdate, mirrored_update

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAME = 1e-5  # nats of a row, float32 against float32 in another order


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalLM, CausalLM]:
    """The same model, plain and compiled."""
    model = tiny_model(tmp_path_factory.mktemp("model"))
    return CausalLM(copy.deepcopy(model)), CausalLM(model, compiled=True)


def tiny_model(folder: Path) -> "PreTrainedModel":
    return load_tiny_llama(save_tiny_llama(folder), torch.float32).model


def some_rows(adapter: CausalLM) -> list[list[Any]]:
    rng = np.random.default_rng(1)
    return [
        split_into_windows(rng.integers(0, adapter.num_vocabulary, size), CONTEXT, OVERLAP)
        for size in (3, 9, 17, 30, 2)
    ]


def some_update(adapter: CausalLM, moves: str, difference: Difference) -> MirroredUpdate:
    generator = torch.Generator().manual_seed(0)
    deltas = {
        name: 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in moving_parameters(adapter.module, moves).items()
    }
    return MirroredUpdate(deltas, "ascent", difference, base_nats=1.0, num_targets=5, moved_nats=0.1, step_size=1.0)


@pytest.mark.parametrize("moves", ["all", "last:1"])
@pytest.mark.parametrize("difference", ["forward", "central", "jvp"])
def test_rows_lose_as_much_under_a_compiled_model(
    pair: tuple[CausalLM, CausalLM], moves: str, difference: Difference
) -> None:
    plain, compiled = (
        score_rows(adapter, some_rows(adapter), [some_update(adapter, moves, difference)] * 2, batch_tokens=40)
        for adapter in pair
    )
    np.testing.assert_allclose(compiled.base_nats_R, plain.base_nats_R, atol=SAME)
    np.testing.assert_allclose(compiled.mirrored_nats_RQ, plain.mirrored_nats_RQ, atol=SAME)
    assert np.abs(plain.mirrored_nats_RQ - plain.base_nats_R[:, None]).max() > 100 * SAME


def test_the_trunk_of_a_compiled_model_is_run_once_and_handed_out(
    pair: tuple[CausalLM, CausalLM],
) -> None:
    adapter = pair[1]
    update = some_update(adapter, "last:1", "forward")
    windows = [window for row in some_rows(adapter) for window in row]
    trunk, batch = SharedTrunk(adapter), adapter.collate(windows)
    trunk.expect(update.deltas)
    with torch.inference_mode():
        recorded = trunk.loss(batch)
        plain = adapter.loss(batch)
    assert trunk.is_chain
    assert trunk.kept[id(batch)].output is not None
    assert recorded.target_nats is not None
    torch.testing.assert_close(recorded.target_nats, plain.target_nats, rtol=0, atol=SAME)


def test_what_is_recorded_inside_a_block_is_recorded_of_a_compiled_one(pair: tuple[CausalLM, CausalLM]) -> None:
    """The pass for all queries, over the last blocks; those below it stay compiled."""
    found = []
    for adapter in pair:
        inside = moving_parameters(adapter.module, "*_proj.weight")
        layers = last_blocks(adapter.module, projectable_layers(adapter.module, inside, adapter.head), 1)
        update = some_update(adapter, "last:1", "forward")
        projection = fit_projection(layers, lambda update=update: iter([update.deltas]), rank=64)
        found.append(row_changes(adapter, some_rows(adapter), projection, batch_tokens=40))
    np.testing.assert_allclose(found[1].change_RQ, found[0].change_RQ, atol=100 * SAME)
    np.testing.assert_allclose(found[1].base_nats_R, found[0].base_nats_R, atol=SAME)
    assert np.abs(found[0].change_RQ).max() > 1e-2


def test_an_update_of_a_compiled_model_is_the_plain_one(pair: tuple[CausalLM, CausalLM]) -> None:
    found = []
    for adapter in pair:
        rows, spec = some_rows(adapter), UpdateSpec(kind="kfac")
        curvature = fit_curvature(adapter, rows, spec, batch_tokens=40)
        found.append(mirrored_update(adapter, rows[2], spec, curvature))
    assert found[1].moved_nats == pytest.approx(found[0].moved_nats, abs=1e-4)
    for name, delta in found[0].deltas.items():
        torch.testing.assert_close(found[1].deltas[name], delta, rtol=1e-2, atol=1e-4)


def test_slopes_of_hidden_states_are_those_of_autograd(pair: tuple[CausalLM, CausalLM]) -> None:
    adapter = pair[0]
    hidden_BTD = torch.randn(2, 5, adapter.head.in_features, generator=torch.Generator().manual_seed(0))
    labels_BT = torch.arange(10).view(2, 5)
    labels_BT[1, 2:] = -100
    slopes = []
    for compiled in (False, True):
        leaf_BTD = hidden_BTD.clone().requires_grad_()
        loss = chunked_example_loss(leaf_BTD, adapter.head, adapter.num_vocabulary, labels_BT, compiled=compiled)
        loss.sum_nats.sum().backward()  # type: ignore[no-untyped-call]
        slopes.append(leaf_BTD.grad)
    torch.testing.assert_close(slopes[1], slopes[0])
    assert slopes[0] is not None
    assert slopes[0].abs().max() > 1e-3


class _Doubled(nn.Module):
    """What a broken compiler might make of a block."""

    def __init__(self, plain: Callable[..., Tensor]) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, hidden: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        return self.plain(2 * hidden, *arguments, **keywords)


class _Forgetful:
    """A compiled block that keeps the weights it was compiled with."""

    def __init__(self, block: nn.Module) -> None:
        self.kept = copy.deepcopy(block)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.kept(*arguments, **keywords)


@pytest.mark.parametrize("breaks", [lambda block: _Doubled(block.forward), _Forgetful])
def test_a_compiled_block_that_gives_other_losses_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, breaks: Callable[[nn.Module], Any]
) -> None:
    def broken(self: CompiledForward, block: nn.Module) -> None:
        self.block, self.plain, self.compiled = block, block.forward, breaks(block)

    monkeypatch.setattr(CompiledForward, "__init__", broken)
    with pytest.raises(CheckpointError, match=r"compiled kernels .* --no-compile"):
        CausalLM(tiny_model(tmp_path), compiled=True)


@pytest.mark.gpu
def test_logits_of_bfloat16_weights_are_not_rounded_to_them_on_a_gpu() -> None:
    torch.manual_seed(0)
    head = nn.Linear(512, 4096, device="cuda", dtype=torch.bfloat16)
    hidden_CD = torch.randn(64, 512, device="cuda", dtype=torch.bfloat16)
    exact_CV = hidden_CD.double() @ head.weight.double().T + head.bias.double()
    assert (head_logits(head, hidden_CD).double() - exact_CV).abs().max() < 1e-4
    assert (head(hidden_CD).double() - exact_CV).abs().max() > 1e-3  # so the test can fail


@pytest.mark.gpu
def test_a_derivative_of_a_compiled_bfloat16_model_is_the_plain_one(tmp_path: Path) -> None:
    model = tiny_model(tmp_path).to("cuda", torch.bfloat16)
    pair = CausalLM(copy.deepcopy(model)), CausalLM(model, compiled=True)
    found = [score_rows(each, some_rows(each), [some_update(each, "all", "jvp")], batch_tokens=40) for each in pair]
    change_RQ = [losses.mirrored_nats_RQ - losses.base_nats_R[:, None] for losses in found]
    np.testing.assert_allclose(change_RQ[1], change_RQ[0], atol=0.05 * np.abs(change_RQ[0]).max())


@pytest.mark.gpu
def test_a_compiled_bfloat16_model_on_a_gpu_gives_the_plain_losses(tmp_path: Path) -> None:
    model = tiny_model(tmp_path).to("cuda", torch.bfloat16)
    plain, compiled = CausalLM(copy.deepcopy(model)), CausalLM(model, compiled=True)
    found = [
        score_rows(adapter, some_rows(adapter), [some_update(adapter, "all", "forward")], batch_tokens=40)
        for adapter in (plain, compiled)
    ]
    np.testing.assert_allclose(found[1].base_nats_R, found[0].base_nats_R, rtol=0.02)
    np.testing.assert_allclose(found[1].mirrored_nats_RQ, found[0].mirrored_nats_RQ, rtol=0.05)
