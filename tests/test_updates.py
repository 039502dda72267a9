"""One step that unlearns or learns a query: `finf_core.updates`."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import slow_reference
import torch
import torch.nn.functional as F
from slow_reference import Row
from tiny_classifiers import as_rows, examples, slow_gradients, tiny_mlp
from tiny_models import cut, fit_kfac, load_tiny_llama, matrices, save_tiny_llama, tiny_gpt2, tiny_row
from torch import Tensor, nn

from finf_core.causal_lm import CausalLM
from finf_core.classifier import Classifier
from finf_core.curvature import fit_curvature
from finf_core.differences import mirrored_nats
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
    curvature = fit_kfac(llama, "all", CURVATURE_ROWS) if kind == "kfac" else None
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind, direction=direction, move_nats=nats), curvature)
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


def test_a_step_a_little_too_long_is_right_at_the_second_trial() -> None:
    """exp rises by 2.5 % more than its slope says: the gradient's pass, which gives the base too, and two trials."""
    passes = []

    def nats(x: Tensor) -> Tensor:
        passes.append(x)
        return x.exp()

    update = mirrored_update(OneNumber(nats), [1.0], UpdateSpec(kind="sgd", move_nats=0.05 * math.e))
    assert update.moved_nats == pytest.approx(0.05 * math.e, rel=MOVED)
    assert len(passes) == 3


@pytest.mark.parametrize("difference", ["forward", "central", "jvp"])
def test_what_moved_is_the_difference_as_rows_take_it(llama: CausalLM, difference: Any) -> None:
    """The base that is taken off is the base that the comparison stands on."""
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind="sgd", difference=difference))
    batches = [llama.collate([window]) for window in cut(QUERY)]
    mirrored = sum(float(n.sum()) for n in mirrored_nats(llama, batches, update.deltas, difference))
    assert update.moved_nats == pytest.approx((mirrored - update.base_nats) / update.num_targets, rel=1e-9)


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


# ---- several steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["ascent", "descent"])
@pytest.mark.parametrize(("kind", "rate"), [("sgd", 2e-3), ("adam", PAPER)])
def test_three_steps_are_three_steps_of_torch_s_own_optimizer(
    folder: Path, llama: CausalLM, kind: Any, rate: float, direction: Any
) -> None:
    """Each along the gradient where the last one ended; Adam with its moments carried on."""
    theirs = load_tiny_llama(folder).model.requires_grad_(True)
    optimizer_of = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    optimizer = optimizer_of(theirs.parameters(), lr=rate, maximize=direction == "ascent")
    for _ in range(3):
        optimizer.zero_grad()
        mean_nats(theirs, QUERY).backward()
        optimizer.step()
    spec = UpdateSpec(kind=kind, direction=direction, learning_rate=rate, steps=3)
    with moved(llama.module, mirrored_update(llama, cut(QUERY), spec).deltas):
        found = {name: parameter.detach().clone() for name, parameter in llama.module.named_parameters()}
    torch.testing.assert_close(found, {n: p.detach() for n, p in theirs.named_parameters()}, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_three_kfac_steps_keep_their_factors_and_take_new_gradients(direction: Any) -> None:
    """By hand: the same dense system, solved for the gradient at each place."""
    adapter, rows = tiny_mlp(), examples((5,), 30)
    spec = UpdateSpec(kind="kfac", direction=direction, learning_rate=0.02, steps=3)
    curvature: Any = fit_curvature(adapter, as_rows(rows), spec, batch_tokens=8)
    dense = {name: matrices(factors) for name, factors in curvature.factors.items()}
    walker = Classifier(copy.deepcopy(adapter.module))
    for _ in range(3):
        gradients = slow_gradients(walker, rows[0])
        for name, pair in dense.items():
            whole_OI = torch.cat([gradients[f"{name}.weight"], gradients[f"{name}.bias"][:, None]], dim=1)
            step_OI = (0.02 if direction == "ascent" else -0.02) * slow_reference.dense_solve(whole_OI, *pair, 0.1)
            walker.module.get_parameter(f"{name}.weight").data += step_OI[:, :-1]
            walker.module.get_parameter(f"{name}.bias").data += step_OI[:, -1]
    update = mirrored_update(adapter, rows[:1], spec, curvature)
    with moved(adapter.module, update.deltas):
        torch.testing.assert_close(adapter.module.state_dict(), walker.module.state_dict(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["sgd", "adam", "kfac"])
@pytest.mark.parametrize("direction", ["ascent", "descent"])
@pytest.mark.parametrize("steps", [2, 3])
def test_several_solved_steps_move_as_far_as_one(llama: CausalLM, kind: Any, direction: Any, steps: int) -> None:
    curvature = fit_kfac(llama, "all", CURVATURE_ROWS) if kind == "kfac" else None
    spec = UpdateSpec(kind=kind, direction=direction, move_nats=0.3, steps=steps)
    update = mirrored_update(llama, cut(QUERY), spec, curvature)
    before = float(mean_nats(llama.model, QUERY))
    with moved(llama.module, update.deltas):
        change = float(mean_nats(llama.model, QUERY)) - before
    assert (change if direction == "ascent" else -change) == pytest.approx(0.3, rel=MOVED)
    assert update.moved_nats == pytest.approx(abs(change), rel=1e-9)


def test_each_solved_step_takes_an_equal_share_of_the_move() -> None:
    """A loss of w³ at w = 1, by two steps of 3.5 nats: to w³ = 4.5, then with that slope to w³ = 8, so w = 2."""
    update = mirrored_update(
        OneNumber(lambda x: x**3), [1.0], UpdateSpec(kind="sgd", move_nats=7.0, steps=2, difference="forward")
    )
    assert update.deltas["weight"].item() == pytest.approx(1.0, rel=2 * MOVED)
    halfway = 4.5 ** (1 / 3)
    assert update.step_size == pytest.approx((2 - halfway) / (3 * halfway**2), rel=5 * MOVED)


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
    curvature = fit_kfac(llama, moves, CURVATURE_ROWS) if kind == "kfac" else None
    update = mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind, moves=moves), curvature)
    named = {name for name, _ in llama.module.named_parameters() if belongs(name)}
    expected = {name for name in named if "norm" not in name} if kind == "kfac" else named
    assert {name for name, delta in update.deltas.items() if delta.any()} == expected
    assert set(update.deltas) == expected


def test_factors_of_more_layers_than_move_do_no_harm(llama: CausalLM) -> None:
    """One fit of the whole model serves every choice of moving parameters."""
    spec = UpdateSpec(moves="last:1")
    whole = mirrored_update(llama, cut(QUERY), spec, fit_kfac(llama, "all", CURVATURE_ROWS))
    fitted = mirrored_update(llama, cut(QUERY), spec, fit_kfac(llama, "last:1", CURVATURE_ROWS))
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


def bfloat16_layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(256, 256, bias=False, dtype=torch.bfloat16).requires_grad_(False)


def moved_weight(layer: nn.Linear, delta: Tensor, scale: float = 1.0) -> Tensor:
    with moved(layer, {"weight": delta}, scale):
        return layer.weight.detach().clone()


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.7])
def test_a_bfloat16_parameter_moves_to_a_neighbour_of_the_float32_sum(scale: float) -> None:
    """The step is not rounded first: it is below bfloat16's own resolution at half of the places."""
    layer, delta = bfloat16_layer(), torch.full((256, 256), 0.0003)
    found, wanted = moved_weight(layer, delta, scale), layer.weight.float() + scale * delta
    assert found.dtype == torch.bfloat16
    toward = torch.where(wanted > found.float(), torch.inf, -torch.inf).bfloat16()
    other_side = torch.nextafter(found, toward).float()
    assert (((found.float() - wanted) * (other_side - wanted)) <= 0).all()


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_a_step_much_finer_than_bfloat16_is_kept_in_the_mean_over_weights(size: float) -> None:
    """To the nearest, nearly all weights would stay where they are."""
    layer = bfloat16_layer()
    delta = torch.full((256, 256), size)
    really_moved = (moved_weight(layer, delta).double() - layer.weight.double()).mean()
    grain = (layer.weight.double().abs() * 2**-8).mean()  # a coarse weight moves by this or not at all
    assert float(really_moved) == pytest.approx(size, abs=4 * float((grain * size).sqrt()) / 256)
    to_nearest = ((layer.weight.float() + delta).bfloat16().double() - layer.weight.double()).mean()
    assert size > 1e-4 or float(to_nearest) < 0.8 * size


def test_a_bfloat16_parameter_is_rounded_alike_each_time_and_stays_where_nothing_is_added() -> None:
    layer, delta = bfloat16_layer(), torch.full((256, 256), 0.0003)
    assert torch.equal(moved_weight(layer, delta), moved_weight(layer, delta))
    assert torch.equal(moved_weight(layer, torch.zeros(256, 256)), layer.weight)


@pytest.mark.parametrize("kind", ["diagonal", "kfac", "ekfac", "exact"])
def test_an_update_without_the_curvature_that_it_needs_is_refused(llama: CausalLM, kind: Any) -> None:
    with pytest.raises(InputError, match=f"'{kind}' needs a curvature"):
        mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_curvature_that_the_update_has_no_use_for_is_refused(llama: CausalLM, kind: Any) -> None:
    with pytest.raises(InputError, match=f"'{kind}' takes no curvature"):
        mirrored_update(llama, cut(QUERY), UpdateSpec(kind=kind), fit_kfac(llama, "all", CURVATURE_ROWS))


@pytest.mark.parametrize("moves", ["*.weight", "*.bias"])
def test_kfac_moves_a_weight_and_its_bias_together_or_not_at_all(moves: str) -> None:
    gpt2 = tiny_gpt2()
    curvature = fit_kfac(gpt2, "all", CURVATURE_ROWS)
    with pytest.raises(InputError, match=r"weight and bias of transformer\.h\.0\.attn\.c_attn together"):
        mirrored_update(gpt2, cut(QUERY), UpdateSpec(moves=moves), curvature)
