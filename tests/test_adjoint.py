"""The one-pass engine against forward differences, dual numbers and products by hand: `finf_core.adjoint`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import cut, load_tiny_llama, save_tiny_llama, tiny_gpt2, tiny_row
from torch import Tensor

from finf_core import adjoint
from finf_core.adjoint import row_changes
from finf_core.causal_lm import CausalLM
from finf_core.differences import base_nats, mirrored_nats, tangent_nats
from finf_core.errors import InputError
from finf_core.layers import factored_layers, weight_matrix
from finf_core.moving import Deltas, block_list
from finf_core.projection import Projection, fit_projection, last_blocks, projectable_layers

FULL = 1000  # directions: all there are
BATCH_TOKENS = 40  # several batches, with padding
Rows = Sequence[Sequence[Any]]


@pytest.fixture(params=["llama", "tied llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> CausalLM:
    if request.param == "gpt2":
        return tiny_gpt2()
    return load_tiny_llama(save_tiny_llama(tmp_path, tied=request.param == "tied llama"))


@pytest.fixture
def llama(tmp_path: Path) -> CausalLM:
    return load_tiny_llama(save_tiny_llama(tmp_path))


def some_rows() -> Rows:
    """Rows of one and of several windows, one with a masked start, and one without targets in the middle."""
    lengths = (8, 30, 5, 12, 3)
    rows = [cut(tiny_row(length, seed, num_context=seed)) for seed, length in enumerate(lengths)]
    return [*rows[:2], [], *rows[2:]]


def random_deltas(model: CausalLM, seed: int) -> Deltas:
    """Random numbers for every weight and bias of the blocks' linear layers."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.module.named_parameters())
    layers = factored_layers(model.module, parameters, model.head)
    names = [name for layer in layers for key in ("weight", "bias") if (name := f"{layer}.{key}") in parameters]
    return {
        name: 0.1 * torch.randn(parameters[name].shape, generator=generator, dtype=parameters[name].dtype)
        for name in names
    }


def project(model: CausalLM, updates: Sequence[Deltas], rank: int = FULL) -> Projection:
    layers = projectable_layers(model.module, updates[0], model.head)
    return fit_projection(layers, lambda: iter(updates), rank)


def slopes_by_dual_numbers(model: CausalLM, rows: Rows, deltas: Deltas) -> list[float]:
    """d(row's nats) along the deltas, a window at a time."""
    return [sum(float(tangent_nats(model, model.collate([example]), deltas).sum()) for example in row) for row in rows]


def test_whole_projections_give_the_directional_derivative(model: CausalLM) -> None:
    updates = [random_deltas(model, seed) for seed in range(3)]
    found = row_changes(model, some_rows(), project(model, updates), BATCH_TOKENS)
    expected = [slopes_by_dual_numbers(model, some_rows(), deltas) for deltas in updates]
    np.testing.assert_allclose(found.change_RQ, np.transpose(expected), rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 0.1


def test_it_is_what_forward_differences_tend_to(model: CausalLM) -> None:
    deltas = random_deltas(model, 5)
    rows = [row for row in some_rows() if row]
    found = row_changes(model, rows, project(model, [deltas]), BATCH_TOKENS).change_RQ[:, 0]
    batches = [[model.collate([example]) for example in row] for row in rows]
    errors = []
    for step in (1e-2, 1e-3, 1e-4):
        small = {name: step * delta for name, delta in deltas.items()}
        changes = [
            sum(float(part.sum()) for part in mirrored_nats(model, row, small, "forward"))
            - sum(float(part.sum()) for part in base_nats(model, row))
            for row in batches
        ]
        errors.append(np.abs(np.array(changes) / step - found).max())
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # falls with the step, as a first-order difference does


def test_base_losses_come_with_the_pass(model: CausalLM) -> None:
    rows = some_rows()
    found = row_changes(model, rows, project(model, [random_deltas(model, 0)]), BATCH_TOKENS)
    per_row = [[base_nats(model, [model.collate([example])])[0] for example in row] for row in rows]
    expected = np.concatenate([np.zeros(0), *(part.numpy() for row in per_row for part in row)])
    np.testing.assert_allclose(found.base.nats_N, expected, rtol=1e-12)
    assert found.num_targets_R.tolist() == [sum(len(part) for part in row) for row in per_row]


@pytest.mark.parametrize("batch_tokens", [1, 17, 10_000])
def test_a_row_does_not_see_its_neighbours(llama: CausalLM, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjoint, "BLOCK_POSITIONS", 5)
    updates = [random_deltas(llama, seed) for seed in range(2)]
    projection = project(llama, updates)
    together = row_changes(llama, some_rows(), projection, batch_tokens)
    alone = [row_changes(llama, [row], projection, BATCH_TOKENS) for row in some_rows()]
    for name in ("change_RQ", "block_change_RQ", "block_positions_R"):
        expected = [getattr(one, name)[0] for one in alone]
        np.testing.assert_allclose(getattr(together, name), expected, rtol=1e-9, atol=1e-12)


def test_blocks_of_a_row_add_up_and_the_largest_is_kept(llama: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjoint, "BLOCK_POSITIONS", 4)
    deltas = random_deltas(llama, 1)
    back = {name: -delta for name, delta in deltas.items()}
    row = cut(tiny_row(12, seed=3))  # 11 inputs: two blocks of 4 and a shorter one
    found = row_changes(llama, [row], project(llama, [deltas, back]), BATCH_TOKENS)
    parts = position_changes(llama, row[0], deltas)
    blocks = np.array([parts[:4].sum(), parts[4:8].sum(), parts[8:].sum()])
    assert found.block_positions_R.tolist() == [4]
    np.testing.assert_allclose(found.change_RQ[0], [blocks.sum(), -blocks.sum()], rtol=1e-9)
    np.testing.assert_allclose(found.block_change_RQ[0], [max(0.0, *blocks), max(0.0, *-blocks)], rtol=1e-9)


def position_changes(model: CausalLM, example: Any, deltas: Deltas) -> np.ndarray[Any, Any]:
    """Σ_layers gᵀ Δ a at each position, with hooks of its own."""
    totals = np.zeros(len(example))
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(name: str) -> Any:
        def after(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen.append((deltas[f"{name}.weight"], given[0], output))

        return after

    parameters = {f"{name}.weight" for name in factored_layers(model.module, deltas, model.head)}
    for name in parameters:
        model.module.get_parameter(name).requires_grad_()
    handles = [
        model.module.get_submodule(name.removesuffix(".weight")).register_forward_hook(
            watch(name.removesuffix(".weight"))
        )
        for name in parameters
    ]
    model.loss(model.collate([example])).sum_nats.sum().backward()
    for handle in handles:
        handle.remove()
    for delta_OI, given_BTI, output in seen:
        assert output.grad is not None
        totals += torch.einsum("to,oi,ti->t", output.grad[0], delta_OI, given_BTI[0].detach()).numpy()
    return totals


def test_a_cut_projection_scores_the_update_that_it_holds(llama: CausalLM) -> None:
    updates = [random_deltas(llama, seed) for seed in range(3)]
    projection = project(llama, updates, rank=5)
    held = [
        {
            f"{name}.weight": part.outputs_OK @ part.cores_QKJ[query] @ part.inputs_IJ.T
            for name, part in projection.layers.items()
        }
        for query in range(3)
    ]
    found = row_changes(llama, some_rows(), projection, BATCH_TOKENS)
    expected = [slopes_by_dual_numbers(llama, some_rows(), deltas) for deltas in held]
    np.testing.assert_allclose(found.change_RQ, np.transpose(expected), rtol=1e-9, atol=1e-12)


def test_updates_of_few_directions_lose_nothing_in_the_cut(llama: CausalLM) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = factored_layers(llama.module, dict(llama.module.named_parameters()), llama.head)
    updates: list[dict[str, Tensor]] = [{}, {}]
    for name, layer in layers.items():
        num_outputs, num_inputs = weight_matrix(layer, layer.get_parameter("weight")).shape
        for deltas in updates:
            left, right = (torch.randn(size, 2, generator=generator).double() for size in (num_outputs, num_inputs))
            deltas[f"{name}.weight"] = left @ right.T
    cut_to_4 = row_changes(llama, some_rows(), project(llama, updates, rank=4), BATCH_TOKENS)
    whole = row_changes(llama, some_rows(), project(llama, updates), BATCH_TOKENS)
    cut_to_3 = row_changes(llama, some_rows(), project(llama, updates, rank=3), BATCH_TOKENS)
    np.testing.assert_allclose(cut_to_4.change_RQ, whole.change_RQ, rtol=1e-6, atol=1e-9)
    assert np.abs(cut_to_3.change_RQ - whole.change_RQ).max() > 1e-3


def test_last_blocks_alone_give_their_share_and_no_gradient_goes_below_them(model: CausalLM) -> None:
    deltas = random_deltas(model, 2)
    layers = last_blocks(model.module, projectable_layers(model.module, deltas, model.head), 1)
    of_last = {name: delta for name, delta in deltas.items() if name.rpartition(".")[0] in layers}
    assert {name.split(".")[2] for name in layers} == {"1"}
    projection = fit_projection(layers, lambda: iter([deltas]), FULL)
    below: list[bool] = []
    first_block = block_list(model.module)[1][0]
    handle = first_block.register_forward_hook(
        lambda _, __, output: below.append((output if isinstance(output, Tensor) else output[0]).requires_grad)
    )
    found = row_changes(model, some_rows(), projection, BATCH_TOKENS)
    handle.remove()
    assert set(below) == {False}
    expected = slopes_by_dual_numbers(model, some_rows(), of_last)
    np.testing.assert_allclose(found.change_RQ[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_tensors_bring_the_projection_back(llama: CausalLM) -> None:
    projection = project(llama, [random_deltas(llama, seed) for seed in range(2)], rank=3)
    again = Projection.from_tensors(projection.tensors())
    assert again.num_queries == 2
    np.testing.assert_array_equal(
        row_changes(llama, some_rows(), again, BATCH_TOKENS).change_RQ,
        row_changes(llama, some_rows(), projection, BATCH_TOKENS).change_RQ,
    )


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_an_update_of_other_layers_is_refused_by_name(llama: CausalLM, name: str) -> None:
    deltas = {**random_deltas(llama, 0), name: torch.zeros_like(llama.module.get_parameter(name))}
    with pytest.raises(InputError, match=name):
        projectable_layers(llama.module, deltas, llama.head)


def test_a_layer_that_sees_other_positions_is_refused_by_name(llama: CausalLM) -> None:
    projection = project(llama, [random_deltas(llama, 0)])
    layer = llama.module.get_submodule("model.layers.0.mlp.down_proj")
    handle = layer.register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1),))  # as an expert would
    mended = layer.register_forward_hook(lambda _, given, output: output.view(-1, 7, output.shape[-1]))
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.down_proj sees"):
        row_changes(llama, [cut(tiny_row(8, 0)), cut(tiny_row(8, 1))], projection, BATCH_TOKENS)
    handle.remove()
    mended.remove()


def test_in_bfloat16_the_changes_stay_close(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    wide, narrow = (load_tiny_llama(tmp_path, dtype) for dtype in (torch.float32, torch.bfloat16))
    updates = [{name: delta.float() for name, delta in random_deltas(wide, seed).items()} for seed in range(4)]
    changes = [
        row_changes(each, some_rows(), project(each, updates), BATCH_TOKENS).change_RQ for each in (wide, narrow)
    ]
    assert np.corrcoef(changes[0].ravel(), changes[1].ravel())[0, 1] > 0.99  # each product is rounded to 0.4 %
