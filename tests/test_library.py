"""finf_core is a library in its own right, and a model of one's own needs no more than an adapter."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import finf_core
from finf_core import ExampleLoss, UpdateSpec, mirrored_update, score_rows
from finf_core.scores import influence_score, row_ratio


class Regression:
    """An example is (features, target); its loss in nats is that of a Gaussian with unit variance."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(3, 1).requires_grad_(False)

    def collate(self, examples):
        return torch.tensor([[*features, target] for features, target in examples])

    def loss(self, batch: Tensor) -> ExampleLoss:
        errors = self.module(batch[:, :3])[:, 0] - batch[:, 3]
        return ExampleLoss(errors.double() ** 2 / 2, torch.ones(len(batch), dtype=torch.int64))


class Example(tuple):
    """A tuple whose length is its cost in tokens: one."""

    def __len__(self) -> int:
        return 1


def test_a_model_of_ones_own_is_scored_through_its_adapter() -> None:
    query, unrelated = Example(((1.0, 0.0, 0.0), 5.0)), Example(((0.0, 1.0, 0.0), 3.0))
    adapter = Regression()
    update = mirrored_update(adapter, [query], UpdateSpec(kind="sgd", moves="weight"))
    losses = score_rows(adapter, [[query], [unrelated]], [update], batch_tokens=8)
    scores = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, "ascent")
    ratios = row_ratio(scores, losses.num_targets_R, np.array([update.moved_nats]))
    assert ratios[:, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-4)


def test_every_public_name_can_be_imported_and_an_unknown_one_is_refused() -> None:
    assert all(getattr(finf_core, name) is not None for name in finf_core.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = finf_core.nothing_such


def test_the_core_loads_without_ray_prefect_or_fsspec() -> None:
    program = (
        "import sys, finf_core, finf_core.ranking, finf_core.report.html\n"
        "[getattr(finf_core, name) for name in finf_core.__all__]\n"
        "print(sorted({'ray', 'prefect', 's3fs', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
