"""The loss of an example: `finf_core.losses`."""

import math
from itertools import pairwise

import numpy as np
import pytest
import slow_reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from finf_core import losses
from finf_core.errors import InputError
from finf_core.losses import (
    IGNORE_INDEX,
    chunked_example_loss,
    draw_labels,
    per_example_loss,
    sampled_example_loss,
)
from finf_core.windows import split_into_windows

SAME_64 = 1e-12  # relative, float64 against Python floats
SAME_32 = 1e-6  # relative, float32 positions against Python floats
NUM_VOCABULARY = 11


def logits_and_labels(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three examples of six positions: all targets, some, none."""
    generator = torch.Generator().manual_seed(seed)
    logits_BTV = 3 * torch.randn(3, 6, NUM_VOCABULARY, generator=generator, dtype=torch.float64)
    labels_BT = torch.randint(NUM_VOCABULARY, (3, 6), generator=generator)
    labels_BT[1, [0, 3]] = IGNORE_INDEX
    labels_BT[2] = IGNORE_INDEX
    return logits_BTV.to(dtype), labels_BT


def slow_loss(logits_TV: list[list[float]], labels_T: list[int]) -> float:
    pairs = [(row, label) for row, label in zip(logits_TV, labels_T, strict=True) if label != IGNORE_INDEX]
    return math.fsum(slow_reference.nats(row, label) for row, label in pairs)


@pytest.mark.parametrize(("dtype", "same"), [(torch.float64, SAME_64), (torch.float32, SAME_32)])
def test_each_example_equals_the_slow_reference(dtype: torch.dtype, same: float) -> None:
    logits_BTV, labels_BT = logits_and_labels(dtype)
    loss = per_example_loss(logits_BTV, labels_BT)
    expected = [slow_loss(*pair) for pair in zip(logits_BTV.tolist(), labels_BT.tolist(), strict=True)]
    assert loss.sum_nats.tolist() == pytest.approx(expected, rel=same)
    assert loss.num_targets.tolist() == [6, 4, 0]


def test_an_example_without_targets_costs_exactly_nothing() -> None:
    loss = per_example_loss(*logits_and_labels(torch.float32))
    assert (loss.sum_nats[2].item(), loss.num_targets[2].item()) == (0.0, 0)


def test_a_row_does_not_see_its_neighbours() -> None:
    logits_BTV, labels_BT = logits_and_labels(torch.float32)
    before = per_example_loss(logits_BTV, labels_BT)
    logits_BTV[1:], labels_BT[1:] = 1e4 * logits_BTV[1:], 0
    after = per_example_loss(logits_BTV, labels_BT)
    assert after.sum_nats[0] == before.sum_nats[0]
    assert after.num_targets[0] == before.num_targets[0]
    assert after.sum_nats[1] != before.sum_nats[1]


@given(num_tokens=st.integers(0, 40), context=st.integers(1, 12), overlap=st.integers(0, 12))
def test_windows_of_a_document_add_up(num_tokens: int, context: int, overlap: int) -> None:
    """Under a model that looks at the last token alone, cutting a document changes nothing at all."""
    generator = torch.Generator().manual_seed(0)
    bigram_VV = torch.randn(NUM_VOCABULARY, NUM_VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = torch.randint(NUM_VOCABULARY, (num_tokens,), generator=generator).numpy()
    whole = sum(slow_reference.nats(bigram_VV[a].tolist(), b) for a, b in pairwise(tokens))
    pieces = split_into_windows(tokens, context, overlap)
    found = [
        per_example_loss(bigram_VV[torch.from_numpy(w.input_ids)][None], torch.from_numpy(w.labels)[None])
        for w in pieces
    ]
    assert sum(loss.sum_nats.item() for loss in found) == pytest.approx(whole, rel=SAME_64)
    assert sum(loss.num_targets.item() for loss in found) == max(0, num_tokens - 1)


@pytest.mark.parametrize("num_vocabulary", [2, 50_257])
def test_uniform_logits_cost_log_v(num_vocabulary: int) -> None:
    loss = per_example_loss(torch.zeros(1, 3, num_vocabulary), torch.tensor([[0, 1, IGNORE_INDEX]]))
    assert loss.sum_nats.item() == pytest.approx(2 * math.log(num_vocabulary), rel=SAME_32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_taken_in_float32(dtype: torch.dtype) -> None:
    logits_BTV, labels_BT = logits_and_labels(dtype)
    expected = [slow_loss(*pair) for pair in zip(logits_BTV.double().tolist(), labels_BT.tolist(), strict=True)]
    assert per_example_loss(logits_BTV, labels_BT).sum_nats.tolist() == pytest.approx(expected, rel=SAME_32)


def test_a_long_sum_does_not_swallow_small_losses() -> None:
    """2²⁵ nats at one position and log 2 at each of 60: a float32 sum would end at 2²⁵."""
    logits_BTV = torch.zeros(1, 61, 2)
    logits_BTV[0, 0, 1] = 2.0**25
    loss = per_example_loss(logits_BTV, torch.zeros(1, 61, dtype=torch.int64))
    assert loss.sum_nats.item() - 2.0**25 == pytest.approx(60 * math.log(2), rel=SAME_32)


@pytest.mark.parametrize(
    ("logits_shape", "labels_shape"), [((2, 5, 7), (2, 4)), ((2, 5, 7), (5, 2)), ((5, 7), (5,)), ((2, 5, 7), (2, 5, 1))]
)
def test_shapes_that_disagree_are_refused(logits_shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"logits \(.*labels \("):
        per_example_loss(torch.zeros(logits_shape), torch.zeros(labels_shape, dtype=torch.int64))


# ---- the same in chunks ----------------------------------------------------------------------------------------------


class RecordingHead(nn.Module):
    """A linear head that remembers how many rows each call projected."""

    def __init__(self, num_hidden: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        weight_VD = torch.randn(NUM_VOCABULARY, num_hidden, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight_VD)
        self.num_rows: list[int] = []

    def forward(self, hidden: Tensor) -> Tensor:
        self.num_rows.append(hidden.numel() // hidden.shape[-1])
        return hidden @ self.weight.T


def hidden_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden_BTD = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    return hidden_BTD.requires_grad_(), logits_and_labels(torch.float64)[1]


@pytest.mark.parametrize("chunk_logits", [1, 3 * NUM_VOCABULARY, 1 << 21])
def test_chunks_of_any_size_give_the_same_loss_and_the_same_gradients(
    chunk_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", chunk_logits)
    hidden_BTD, labels_BT = hidden_and_labels()
    head = RecordingHead(4)
    at_once = per_example_loss(head(hidden_BTD), labels_BT)
    chunked = chunked_example_loss(hidden_BTD, head, NUM_VOCABULARY, labels_BT)
    weights_B = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)  # each example's gradient counts differently
    wanted = (hidden_BTD, head.weight)
    expected = torch.autograd.grad((at_once.sum_nats * weights_B).sum(), wanted)
    found = torch.autograd.grad((chunked.sum_nats * weights_B).sum(), wanted)
    torch.testing.assert_close(chunked, at_once, rtol=SAME_64, atol=0)
    torch.testing.assert_close(found, expected, rtol=SAME_64, atol=1e-14)


@pytest.mark.parametrize("chunk_logits", [1, 3 * NUM_VOCABULARY, 1 << 21])
def test_a_head_that_wants_no_gradient_gives_the_same_gradients_in_one_pass(
    chunk_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", chunk_logits)
    hidden_BTD, labels_BT = hidden_and_labels()
    head = RecordingHead(4).requires_grad_(False)
    at_once = per_example_loss(head(hidden_BTD), labels_BT)
    head.num_rows.clear()
    chunked = chunked_example_loss(hidden_BTD, head, NUM_VOCABULARY, labels_BT)
    weights_B = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    [expected] = torch.autograd.grad((at_once.sum_nats * weights_B).sum(), hidden_BTD)
    [found] = torch.autograd.grad((chunked.sum_nats * weights_B).sum(), hidden_BTD)
    torch.testing.assert_close(chunked, at_once, rtol=SAME_64, atol=0)
    torch.testing.assert_close(found, expected, rtol=SAME_64, atol=1e-14)
    assert sum(head.num_rows) == 10  # the targets alone, each once


def test_without_gradients_the_chunked_loss_is_the_same() -> None:
    hidden_BTD, labels_BT = hidden_and_labels()
    head = RecordingHead(4)
    with torch.no_grad():
        chunked = chunked_example_loss(hidden_BTD, head, NUM_VOCABULARY, labels_BT)
        torch.testing.assert_close(chunked, per_example_loss(head(hidden_BTD), labels_BT), rtol=SAME_64, atol=0)


def test_a_batch_without_any_target_costs_nothing_and_pulls_on_nothing() -> None:
    hidden_BTD, labels_BT = hidden_and_labels()
    loss = chunked_example_loss(hidden_BTD, RecordingHead(4), NUM_VOCABULARY, torch.full_like(labels_BT, IGNORE_INDEX))
    loss.sum_nats.sum().backward()
    assert loss.sum_nats.tolist() == [0.0, 0.0, 0.0]
    assert hidden_BTD.grad is not None
    assert not hidden_BTD.grad.any()


@pytest.mark.parametrize("with_gradients", [False, True])
def test_the_logits_of_a_whole_batch_never_exist_at_once(with_gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 3 * NUM_VOCABULARY + 1)
    hidden_BTD, labels_BT = hidden_and_labels()
    head = RecordingHead(4)
    with torch.set_grad_enabled(with_gradients):
        loss = chunked_example_loss(hidden_BTD, head, NUM_VOCABULARY, labels_BT)
    assert max(head.num_rows) == 3
    assert sum(head.num_rows) == 10  # the targets alone, each once
    if with_gradients:
        loss.sum_nats.sum().backward()
        assert max(head.num_rows) == 3


def test_no_logits_are_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 5 * NUM_VOCABULARY)
    hidden_BTD, labels_BT = hidden_and_labels()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape[-1] if tensor.ndim == 2 else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunked_example_loss(hidden_BTD, RecordingHead(4), NUM_VOCABULARY, labels_BT)
    assert NUM_VOCABULARY not in kept


@pytest.mark.parametrize("chunk_logits", [1, 3 * NUM_VOCABULARY, 1 << 21])
def test_a_loss_with_its_own_labels_is_the_loss_of_the_labels_drawn(
    chunk_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_LOGITS", chunk_logits)
    hidden_BTD, labels_BT = hidden_and_labels()
    head, is_target_BT = RecordingHead(4).requires_grad_(False), labels_BT != IGNORE_INDEX
    drawn_N = draw_labels(head(hidden_BTD[is_target_BT]).softmax(-1), torch.Generator().manual_seed(2))
    drawn_BT = labels_BT.masked_scatter(is_target_BT, drawn_N)
    at_once = per_example_loss(head(hidden_BTD), drawn_BT)
    found = sampled_example_loss(hidden_BTD, head, NUM_VOCABULARY, labels_BT, torch.Generator().manual_seed(2))
    [expected_slopes] = torch.autograd.grad(at_once.sum_nats.sum(), hidden_BTD)
    [found_slopes] = torch.autograd.grad(found.sum_nats.sum(), hidden_BTD)
    torch.testing.assert_close(found, at_once, rtol=SAME_64, atol=0)
    torch.testing.assert_close(found_slopes, expected_slopes, rtol=SAME_64, atol=1e-14)


def test_labels_come_as_often_as_they_are_likely_and_impossible_ones_never() -> None:
    likely_V = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    drawn_N = draw_labels(likely_V.expand(20_000, 6), torch.Generator().manual_seed(0))
    shares_V = torch.bincount(drawn_N, minlength=6) / len(drawn_N)
    torch.testing.assert_close(shares_V, likely_V, rtol=0, atol=0.015)  # four standard deviations
    assert not shares_V[likely_V == 0].any()


def test_the_slow_reference_knows_the_gradient_of_its_own_loss() -> None:
    logits_V = [0.3, -1.2, 2.0]
    step = 1e-6
    for index, slope in enumerate(slow_reference.nats_by_logits(logits_V, token=1)):
        nudge = step * np.eye(3)[index]
        up, down = (slow_reference.nats((np.array(logits_V) + s * nudge).tolist(), 1) for s in (1, -1))
        assert slope == pytest.approx((up - down) / (2 * step), abs=1e-8)
