"""Updates of low rank: `finf_core.low_rank`, and how they are stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import cut, load_tiny_llama, save_tiny_llama, tiny_row
from torch import Tensor

from finf_core import low_rank
from finf_core.curvature import fit_curvature
from finf_core.errors import InputError
from finf_core.low_rank import cut_to_rank, is_cut, low_rank_factors
from finf_core.scoring import score_rows
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update
from tasks import storage
from tasks.update_store import publish_update, read_update


def matrix_of_rank(rank: int, num_rows: int = 40, num_columns: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=generator).double() for size in (num_rows, num_columns))
    return left @ right.T


@pytest.mark.parametrize("exact_up_to", [512, 8])  # by a whole decomposition, and by random projections
def test_a_matrix_of_few_directions_is_kept_whole_and_one_of_more_is_cut_to_the_nearest(
    exact_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_rank, "EXACT_UP_TO", exact_up_to)
    few, many = matrix_of_rank(3), matrix_of_rank(9)
    torch.testing.assert_close(torch.matmul(*low_rank_factors(few, 3)), few, rtol=1e-9, atol=1e-9)
    left, right = low_rank_factors(many, 4)
    assert (left.shape, right.shape) == ((40, 4), (4, 30))
    lost = np.linalg.svd(many.numpy(), compute_uv=False)[4:]  # what no matrix of rank 4 can avoid (Eckart, Young)
    assert float((many - left @ right).norm()) == pytest.approx(float(np.linalg.norm(lost)), rel=1e-6)


def test_the_same_matrix_is_cut_the_same_way_and_other_draws_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "EXACT_UP_TO", 8)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = low_rank_factors(matrix_of_rank(9), 4)
    assert torch.rand(1) == expected
    torch.testing.assert_close(first, low_rank_factors(matrix_of_rank(9), 4), rtol=0, atol=0)


def test_vectors_and_matrices_that_would_not_shrink_stay_as_they_are() -> None:
    tensors = {"bias": torch.ones(50), "small": torch.eye(4), "large": torch.eye(40)}
    found = cut_to_rank(tensors, 3)
    assert found["bias"] is tensors["bias"]
    assert found["small"] is tensors["small"]
    assert int(torch.linalg.matrix_rank(found["large"])) == 3
    assert is_cut(tensors["large"], 19)
    assert not is_cut(tensors["large"], 20)
    assert cut_to_rank(tensors, None) == tensors


def test_a_cut_update_moves_its_query_as_far_and_a_copy_of_the_query_still_has_ratio_one(tmp_path: Path) -> None:
    model = load_tiny_llama(save_tiny_llama(tmp_path))
    rows = [cut(tiny_row(11, seed)) for seed in range(6)]
    spec = UpdateSpec(rank=2)
    curvature = fit_curvature(model, rows, spec, 100)
    update = mirrored_update(model, rows[3], spec, curvature)
    assert max(int(torch.linalg.matrix_rank(d, rtol=1e-6)) for d in update.deltas.values() if is_cut(d, 2)) == 2
    assert update.moved_nats == pytest.approx(spec.move_nats, rel=0.011)
    losses = score_rows(model, rows, [update], 100)
    changes = (losses.mirrored_nats_RQ[:, 0] - losses.base_nats_R) / losses.num_targets_R / update.moved_nats
    assert changes[3] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(np.delete(changes, 3)).max() < 0.9


def test_a_cut_update_is_stored_as_factors_and_read_back_as_it_was(tmp_path: Path) -> None:
    model = load_tiny_llama(save_tiny_llama(tmp_path / "model"), torch.float32)
    rows = [cut(tiny_row(11, seed)) for seed in range(6)]
    sizes = {}
    for rank in (None, 2):
        spec = UpdateSpec(rank=rank)
        update = mirrored_update(model, rows[0], spec, fit_curvature(model, rows, spec, 100))
        publish_update(str(tmp_path), f"rank-{rank}", update, rank)
        again = read_update(str(tmp_path), f"rank-{rank}")
        assert again.deltas.keys() == update.deltas.keys()
        for name, delta in update.deltas.items():
            torch.testing.assert_close(again.deltas[name], delta, rtol=1e-5, atol=1e-6 * float(delta.abs().max()))
        assert again.moved_nats == update.moved_nats
        sizes[rank] = len(storage.read_bytes(str(tmp_path / f"rank-{rank}.safetensors")))
    assert sizes[2] < 0.5 * sizes[None]


def test_several_steps_cannot_be_cut() -> None:
    with pytest.raises(InputError, match=r"update\.rank"):
        UpdateSpec(rank=4, steps=2)
    with pytest.raises(InputError, match=r"update\.rank"):
        UpdateSpec(rank=0)
