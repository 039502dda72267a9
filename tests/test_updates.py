"""One step that unlearns or learns a query: `finf_core.updates`."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from slow_reference import Row
from tiny_models import cut, fit_factors, load_tiny_llama, save_tiny_llama, tiny_gpt2, tiny_row
from torch import Tensor, nn

from finf_core.causal_lm import CausalLM
from finf_core.errors import InputError
from finf_core.losses import ExampleLoss
from finf_core.moving import moved
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update

MOVED = 0.01  # relative: how closely a solved step meets the nats asked for
QUERY = tiny_row(9, seed=100, num_context=3)
CURVATURE_ROWS = [tiny_row(8, seed=200), tiny_row(15, seed=201)]
PAPER = 5e-3  # the learning rate of the paper's released recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def llama(folder: Path) -> CausalLM:
    return load_tiny_llama(folder)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return load_tiny_llama(save_tiny_llama(tmp_path_factory.mktemp("tied"), tied=True))


def mean_nats(model: nn.Module, query: Row) -> Tensor:
    """Of a query that fits the context, from `transformers`' own logits."""
    targets = [place for place in range(1, len(query.tokens)) if query.counts[place]]
    ids_T = torch.tensor(query.tokens)
    logits_TV = model(input_ids=ids_T[None]).logits[0]
    return F.cross_entropy(logits_TV[[place - 1 for place in targets]], ids_T[targets])


# ---- Adam ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["ascent", "descent"])
@pytest.mark.parametrize(("dtype", "same"), [(torch.float64, 1e-12), (torch.float32, 1e-7)])
def test_adam_takes_the_first_step_of_torch_s_own_adam(
    folder: Path, direction: Any, dtype: torch.dtype, same: float
) -> None:
    spec = UpdateSpec(kind="adam", direction=direction, learning_rate=PAPER)
    ours = load_tiny_llama(folder, dtype)
    theirs = load_tiny_llama(folder, dtype).model.requires_grad_(True)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=PAPER, maximize=direction == "ascent")
    mean_nats(theirs, QUERY).backward()
    optimizer.step()
    with moved(ours.module, mirrored_update(ours, cut(QUERY), spec).deltas):
        found = {name: parameter.detach().clone() for name, parameter in ours.module.named_parameters()}
    torch.testing.assert_close(found, {n: p.detach() for n, p in theirs.named_parameters()}, rtol=0, atol=same)


def test_adam_leaves_the_embeddings_of_absent_tokens_alone(llama: CausalLM) -> None:
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind="adam"))
    moved_rows = update.deltas["model.embed_tokens.weight"].any(dim=1)
    assert set(moved_rows.nonzero()[:, 0].tolist()) == set(QUERY.tokens[:-1])


# ---- the solved step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adam", "kfac"])
@pytest.mark.parametrize("direction", ["ascent", "descent"])
@pytest.mark.parametrize("nats", [1e-4, 0.01, 0.1, 0.5])
def test_a_solved_step_moves_the_query_by_the_nats_asked_for(
    llama: CausalLM, kind: Any, direction: Any, nats: float
) -> None:
    factors = fit_factors(llama, "all", CURVATURE_ROWS)
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind, direction=direction, move_nats=nats), factors)
    before = float(mean_nats(llama.model, QUERY))
    with moved(llama.module, update.deltas):
        change = float(mean_nats(llama.model, QUERY)) - before
    assert (change if direction == "ascent" else -change) == pytest.approx(nats, rel=MOVED)
    assert update.moved_nats == pytest.approx(abs(change), rel=1e-9)
    assert update.base_nats / update.num_targets == pytest.approx(before, rel=1e-12)
    assert update.num_targets == sum(QUERY.counts)


def test_a_fixed_step_reports_what_it_moved(llama: CausalLM) -> None:
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind="sgd", learning_rate=2e-3))
    before = float(mean_nats(llama.model, QUERY))
    with moved(llama.module, update.deltas):
        assert update.moved_nats == pytest.approx(float(mean_nats(llama.model, QUERY)) - before, rel=1e-9)
    assert update.step_size == 2e-3


class OneNumber:
    """A model of one's own with a single weight w, at 1: an example x costs `nats(w·x)` at its one target."""

    def __init__(self, nats: Callable[[Tensor], Tensor]) -> None:
        self.module: nn.Module = nn.Linear(1, 1, bias=False, dtype=torch.float64).requires_grad_(False)
        self.module.weight.fill_(1.0)
        self.nats = nats

    def collate(self, examples: Sequence[float]) -> Tensor:
        return torch.tensor(examples, dtype=torch.float64)[:, None]

    def loss(self, batch: Tensor) -> ExampleLoss:
        return ExampleLoss(self.nats(self.module(batch))[:, 0], torch.ones(len(batch), dtype=torch.int64))


def test_descent_asks_for_at_most_half_of_the_loss() -> None:
    """exp(−w) can fall for ever, but never by more than itself: 10 nats are not there to be had."""
    spec = UpdateSpec(kind="sgd", direction="descent", move_nats=10.0)
    update = mirrored_update(OneNumber(lambda x: (-x).exp()), [1.0], spec)
    assert update.base_nats == pytest.approx(math.exp(-1))
    assert update.moved_nats == pytest.approx(0.5 * math.exp(-1), rel=MOVED)
    assert update.deltas["weight"].item() == pytest.approx(math.log(2), rel=2 * MOVED)


def test_ascent_asks_for_all_of_the_nats_however_small_the_loss() -> None:
    update = mirrored_update(OneNumber(lambda x: (-20 * x).exp()), [1.0], UpdateSpec(kind="sgd", move_nats=3.0))
    assert update.base_nats < 1e-8
    assert update.moved_nats == pytest.approx(3.0, rel=MOVED)


def test_a_step_into_infinite_loss_was_a_step_too_far() -> None:
    """A loss that is flat, then rises steeply and overflows: the first guess lands in infinity."""
    update = mirrored_update(OneNumber(lambda x: (40 * (x - 1.5)).exp()), [1.0], UpdateSpec(kind="sgd", move_nats=0.1))
    assert update.moved_nats == pytest.approx(0.1, rel=MOVED)


def test_a_loss_that_cannot_rise_that_far_is_refused_with_the_nats() -> None:
    with pytest.raises(InputError, match=r"by 2 nats.*move_nats"):
        mirrored_update(OneNumber(torch.sigmoid), [1.0], UpdateSpec(kind="sgd", move_nats=2.0))


@pytest.mark.parametrize("step", [{"move_nats": 0.1}, {"learning_rate": 1e-3}], ids=["solved", "fixed"])
def test_a_query_without_any_gradient_is_refused(step: Any) -> None:
    with pytest.raises(InputError, match=r"gradient|not at all"):
        mirrored_update(OneNumber(lambda x: 0 * x + 1), [1.0], UpdateSpec(kind="sgd", **step))


def test_a_fixed_step_that_goes_the_wrong_way_is_refused() -> None:
    """cos has its nearest crest at 0: a step of 10 from there ends far below."""
    with pytest.raises(InputError, match="wrong way"):
        mirrored_update(OneNumber(torch.cos), [1.0], UpdateSpec(kind="sgd", learning_rate=5.0))


def test_the_examples_of_a_query_add_up() -> None:
    """Two examples of one target each: the mean over both moves, not the mean of one."""
    update = mirrored_update(OneNumber(torch.square), [1.0, 3.0], UpdateSpec(kind="sgd", learning_rate=0.01))
    assert update.base_nats == pytest.approx(10.0)
    assert update.num_targets == 2
    assert update.deltas["weight"].item() == pytest.approx(0.01 * (2 * 1 + 2 * 9) / 2)


# ---- which parameters move -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adam", "kfac"])
@pytest.mark.parametrize(
    ("moves", "belongs"),
    [
        ("last:1", lambda name: name.startswith("model.layers.1.")),
        ("last:2", lambda name: name.startswith("model.layers.")),
        ("*.mlp.*", lambda name: ".mlp." in name),
        ("model.layers.0.self_attn.q_proj.weight", lambda name: name == "model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_only_the_named_parameters_move(llama: CausalLM, kind: Any, moves: str, belongs: Any) -> None:
    factors = fit_factors(llama, moves, CURVATURE_ROWS) if kind == "kfac" else None
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind, moves=moves), factors)
    named = {name for name, _ in llama.module.named_parameters() if belongs(name)}
    expected = {name for name in named if "norm" not in name} if kind == "kfac" else named
    assert {name for name, delta in update.deltas.items() if delta.any()} == expected
    assert set(update.deltas) == expected


def test_factors_of_more_layers_than_move_do_no_harm(llama: CausalLM) -> None:
    """One fit of the whole model serves every choice of moving parameters."""
    spec = UpdateSpec(moves="last:1")
    whole = mirrored_update(llama, cut(QUERY), spec, fit_factors(llama, "all", CURVATURE_ROWS))
    fitted = mirrored_update(llama, cut(QUERY), spec, fit_factors(llama, "last:1", CURVATURE_ROWS))
    torch.testing.assert_close(dict(whole.deltas), dict(fitted.deltas), rtol=1e-9, atol=1e-15)


def test_a_tied_head_moves_as_one_with_the_embeddings(tied: CausalLM) -> None:
    update = mirrored_update(tied, cut(QUERY), UpdateSpec(kind="sgd"))
    assert "lm_head.weight" not in update.deltas
    with moved(tied.module, update.deltas):
        assert torch.equal(tied.head.weight, tied.model.get_input_embeddings().weight)
    assert all(update.deltas["model.embed_tokens.weight"].any(dim=1))  # the head pulls on every token


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [[], cut(tiny_row(1, seed=0)), cut(tiny_row(9, seed=0, num_context=9))])
def test_a_query_without_targets_is_refused(llama: CausalLM, query: Any) -> None:
    with pytest.raises(InputError, match="no target"):
        mirrored_update(llama, query, UpdateSpec(kind="sgd"))


@pytest.mark.parametrize("moves", ["last:99", "last:0", "last:-1", "last:x", "last:", "last:²"])
def test_a_number_of_blocks_that_the_model_does_not_have_is_refused(llama: CausalLM, moves: str) -> None:
    with pytest.raises(InputError, match="from 1 to 2 blocks"):
        mirrored_update(llama, cut(QUERY), UpdateSpec(kind="sgd", moves=moves))


def test_a_pattern_that_names_no_parameter_is_refused_with_names_to_choose_from(llama: CausalLM) -> None:
    with pytest.raises(InputError, match=r"'\*\.mlpp\.\*'.*model\.embed_tokens\.weight"):
        mirrored_update(llama, cut(QUERY), UpdateSpec(kind="sgd", moves="*.mlpp.*"))


def test_a_model_without_blocks_has_no_last_block() -> None:
    with pytest.raises(InputError, match="blocks"):
        mirrored_update(OneNumber(torch.square), [1.0], UpdateSpec(kind="sgd", moves="last:1"))


# ---- the model while it is moved -------------------------------------------------------------------------------------


def test_a_moved_model_comes_back_bit_for_bit_even_after_an_error(llama: CausalLM) -> None:
    before = {name: p.detach().clone() for name, p in llama.module.named_parameters()}
    deltas = {name: torch.full_like(p, 1 / 3) for name, p in before.items()}
    during = {}

    def pass_that_fails() -> None:
        with moved(llama.module, deltas, scale=1e-3):
            during.update({name: p.detach().clone() for name, p in llama.module.named_parameters()})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pass_that_fails()
    assert not any(torch.equal(during[name], p) for name, p in before.items())
    assert all(torch.equal(p, before[name]) for name, p in llama.module.named_parameters())


def test_a_bfloat16_parameter_moves_by_the_float32_sum_rounded_once() -> None:
    """The step itself is below bfloat16's own resolution at half of the places: it must not be rounded first."""
    layer = nn.Linear(64, 64, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    delta = torch.full((64, 64), 0.003)
    expected = (layer.weight.float() + 0.7 * delta).bfloat16()
    with moved(layer, {"weight": delta}, scale=0.7):
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.weight, expected)


def test_kfac_without_factors_is_refused(llama: CausalLM) -> None:
    with pytest.raises(InputError, match="needs Kronecker factors"):
        mirrored_update(llama, cut(QUERY), UpdateSpec())


@pytest.mark.parametrize("moves", ["*.weight", "*.bias"])
def test_kfac_moves_a_weight_and_its_bias_together_or_not_at_all(moves: str) -> None:
    gpt2 = tiny_gpt2()
    factors = fit_factors(gpt2, "all", CURVATURE_ROWS)
    with pytest.raises(InputError, match=r"weight and bias of transformer\.h\.0\.attn\.c_attn together"):
        mirrored_update(gpt2, cut(QUERY), UpdateSpec(moves=moves), factors)
