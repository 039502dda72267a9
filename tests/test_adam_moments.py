"""Second moments of Adam from `optimizer.pt`: `tasks.adam_moments`, `tasks.curvature_store`."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finf_core.diagonal import DiagonalCurvature
from finf_core.errors import InputError
from tasks import storage
from tasks.adam_moments import read_adam_moments
from tasks.curvature_store import CurvatureCost, is_complete, publish_cost, publish_curvature, read_curvature


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def trained(module: nn.Module, groups: Any) -> torch.optim.Optimizer:
    """Three steps of real training, so that there are real moments."""
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for seed in range(3):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        module(torch.randn(7, 5)).square().mean().backward()
        optimizer.step()
    return optimizer


def save(optimizer: torch.optim.Optimizer, folder: Path) -> str:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    uri = str(folder / "optimizer.pt")
    storage.publish_bytes(uri, buffer.getvalue())
    return uri


def expected(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {name: optimizer.state[p]["exp_avg_sq"].sqrt() for name, p in module.named_parameters()}


def one_group(module: nn.Module) -> Any:
    return list(module.parameters())


def as_transformers_groups_them(module: nn.Module) -> Any:
    parameters = list(module.parameters())
    return [{"params": [p for p in parameters if p.ndim >= 2]}, {"params": [p for p in parameters if p.ndim < 2]}]


def by_name_backwards(module: nn.Module) -> Any:
    return list(module.named_parameters())[::-1]


@pytest.mark.parametrize("grouped", [one_group, as_transformers_groups_them, by_name_backwards])
def test_every_moment_finds_its_parameter(tmp_path: Path, grouped: Any) -> None:
    module = small_net()
    optimizer = trained(module, grouped(module))
    found = read_adam_moments(save(optimizer, tmp_path), module)
    wanted = expected(module, optimizer)
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_moments_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    module = small_net()
    uri = save(trained(module, one_group(module)), tmp_path)
    with pytest.raises(InputError, match=r"0\.weight"):
        read_adam_moments(uri, nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)))


def test_an_optimizer_that_is_not_adam_is_refused(tmp_path: Path) -> None:
    module = small_net()
    with pytest.raises(InputError, match="Adam"):
        read_adam_moments(save(torch.optim.SGD(module.parameters(), lr=0.1), tmp_path), module)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the code would leave its mark
    buffer = io.BytesIO()
    torch.save({"state": {0: Evil()}, "param_groups": []}, buffer)
    uri = str(tmp_path / "optimizer.pt")
    storage.publish_bytes(uri, buffer.getvalue())
    with pytest.raises(InputError, match="Adam"):
        read_adam_moments(uri, small_net())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "state",
    [
        [1, 2],
        {"state": [1], "param_groups": []},
        {"state": {0: 3}, "param_groups": []},
        {"state": {0: {"exp_avg_sq": 3}}, "param_groups": [{"params": [0]}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2, dtype=torch.int64)}}, "param_groups": [{"params": [0]}]},
        {"state": {0: {"exp_avg_sq": torch.ones(2)}}, "param_groups": [{"params": [0, 1], "param_names": ["a"]}]},
    ],
)
def test_what_is_no_state_at_all_is_refused(tmp_path: Path, state: Any) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    uri = str(tmp_path / "optimizer.pt")
    storage.publish_bytes(uri, buffer.getvalue())
    with pytest.raises(InputError, match=r"optimizer\.pt: want the state of an Adam optimizer"):
        read_adam_moments(uri, small_net())


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_a_direction_is_the_gradient_over_the_root_of_the_moment() -> None:
    module = small_net()
    moments = {name: torch.rand_like(p) + 0.1 for name, p in module.named_parameters()}
    gradients = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    found = DiagonalCurvature(moments, damping=0.5).precondition(module, gradients)
    for name, gradient in gradients.items():
        mean = sum(moments[name].flatten().tolist()) / moments[name].numel()
        torch.testing.assert_close(found[name], gradient / (moments[name] + 0.5 * mean))


def test_a_curvature_is_complete_only_when_its_cost_is_there(tmp_path: Path) -> None:
    folder = str(tmp_path / "curvature")
    tensors = {"layer/input_values_I": torch.rand(3), "layer/output_values_O": torch.rand(2)}
    num_parts = publish_curvature(folder, tensors)
    assert not is_complete(folder)
    publish_cost(folder, CurvatureCost(1, 2, 0.5, 20, num_parts, 1.0))
    assert is_complete(folder)
    found = read_curvature(folder)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_a_large_curvature_is_kept_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.curvature_store.PART_BYTES", 100)
    folder = str(tmp_path / "curvature")
    tensors = {f"layer{index}/input_values_I": torch.rand(20) for index in range(5)}
    assert publish_curvature(folder, tensors) == 5
    publish_cost(folder, CurvatureCost(1, 2, 0.5, 400, 5, 1.0))
    found = read_curvature(folder)
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
