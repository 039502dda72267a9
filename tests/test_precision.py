"""The pre-flight guard: signal against noise, and what is chosen when noise wins: `finf_core.precision`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import cut, load_tiny_llama, save_tiny_llama, tiny_row

from finf_core.causal_lm import CausalLM, TokenBatch
from finf_core.curvature import fit_curvature
from finf_core.errors import InputError
from finf_core.losses import ExampleLoss
from finf_core.moving import moved
from finf_core.precision import Precision, candidates, choose_precision, in_dtype, measure
from finf_core.scores import Floats
from finf_core.scoring import score_rows
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update
from tasks.check_precision import draw_queries
from tasks.queries import Query

ROWS = [cut(tiny_row(10, seed)) for seed in range(24)]
QUERIES = [cut(tiny_row(11, seed)) for seed in (90, 91, 92)]
BATCH_TOKENS = 60
SMALL = UpdateSpec(kind="kfac", move_nats=1e-3, curvature_labels="data")  # far below what bfloat16 weights can hold


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def exact(folder: Path) -> CausalLM:
    return load_tiny_llama(folder, torch.float64)


@pytest.fixture
def coarse(folder: Path) -> CausalLM:
    return load_tiny_llama(folder, torch.bfloat16)


def ratios(adapter: CausalLM, spec: UpdateSpec) -> Floats:
    """Nats of each row for each nat of the first query."""
    curvature = fit_curvature(adapter, ROWS, spec, BATCH_TOKENS)
    update = mirrored_update(adapter, QUERIES[0], spec, curvature)
    losses = score_rows(adapter, ROWS, [update], BATCH_TOKENS)
    return (losses.mirrored_nats_RQ[:, 0] - losses.base_nats_R) / update.moved_nats


def choose(adapter: CausalLM, spec: UpdateSpec) -> Precision:
    curvature = fit_curvature(adapter, ROWS, spec, BATCH_TOKENS)
    return choose_precision(adapter, ROWS, QUERIES, spec, curvature, BATCH_TOKENS)[0]


def correlation(left: Floats, right: Floats) -> float:
    return float(np.corrcoef(left, right)[0, 1])


def test_wide_weights_keep_what_was_asked_for(exact: CausalLM) -> None:
    assert choose(exact, SMALL) == Precision("forward")


def test_an_update_finer_than_its_weights_is_never_scored_as_it_is(coarse: CausalLM, exact: CausalLM) -> None:
    """Scored as it is, it is noise; as the guard chooses, it agrees with float64."""
    chosen = choose(coarse, SMALL)
    assert chosen != Precision("forward")
    truth = ratios(exact, replace(SMALL, difference="jvp"))
    assert correlation(ratios(coarse, chosen.apply(SMALL)), truth) > 0.98


def test_a_difference_that_the_spec_names_is_refused_when_noise_drowns_it(coarse: CausalLM) -> None:
    with pytest.raises(InputError, match=r"stand out from rounding.*forward"):
        choose(coarse, replace(SMALL, difference="forward"))


def test_without_a_least_signal_nothing_is_refused(coarse: CausalLM) -> None:
    spec = replace(SMALL, difference="forward", least_signal=0.0)
    assert choose(coarse, spec) == Precision("forward")
    far = replace(spec, kind="adam", learning_rate=0.05)  # curved: no derivative any more
    assert choose(coarse, far) == Precision("forward")


def test_one_query_more_is_at_most_one_other_in_the_sample() -> None:
    queries = [Query(str(number), "", f"text {number}") for number in range(40)]
    before = {query.target for query in draw_queries(queries, seed=0)}
    assert len(before) == 4
    for number in range(100, 140):
        new = Query("0", "", f"text {number}")
        renamed = [replace(query, query_id=f"other {query.query_id}") for query in reversed(queries)]
        after = {query.target for query in draw_queries([new, *renamed], seed=0)}
        assert len(after) == 4
        assert after - before <= {new.target}
    assert {query.target for query in draw_queries(queries, seed=1)} != before


def test_nothing_is_tried_but_what_the_spec_names() -> None:
    assert list(candidates(replace(SMALL, difference="jvp"), torch.bfloat16)) == [Precision("jvp")]


def test_float32_weights_are_a_choice_only_for_coarse_ones() -> None:
    def names(dtype: torch.dtype) -> set[str]:
        return {str(precision) for precision in candidates(SMALL, dtype)}

    assert names(torch.bfloat16) - names(torch.float32) == {"forward, float32 weights"}


def test_coarse_weights_held_in_float32_give_what_a_float32_model_gives(coarse: CausalLM) -> None:
    before = {name: p.data.clone() for name, p in coarse.module.named_parameters()}
    spec = replace(SMALL, difference="forward")
    with in_dtype(coarse, "float32"):
        assert {p.dtype for p in coarse.module.parameters()} == {torch.float32}
        widened = ratios(coarse, spec)
    assert {p.dtype for p in coarse.module.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p.data, before[name]) for name, p in coarse.module.named_parameters())
    with in_dtype(coarse, "float32"):
        derivative = ratios(coarse, replace(spec, difference="jvp"))
    assert correlation(widened, derivative) > 0.99


class Noisy(CausalLM):
    """A Llama whose losses are off by noise of a known size, drawn anew for each pass."""

    nats_of_noise = 0.0

    def loss(self, batch: TokenBatch) -> ExampleLoss:
        clean = super().loss(batch)
        assert clean.target_nats is not None
        noise = self.nats_of_noise * torch.randn(clean.target_nats.shape, dtype=torch.float64)
        return clean._replace(target_nats=clean.target_nats + noise)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@pytest.mark.parametrize("nats", [1e-4, 1e-3])
def test_the_noise_that_is_measured_is_the_noise_that_is_there(exact: CausalLM, nats: float) -> None:
    """A forward difference is off by the noise of two passes; each row averages over its targets."""
    spec = UpdateSpec(kind="sgd", move_nats=0.02)
    update = mirrored_update(exact, QUERIES[0], spec)
    noisy = Noisy(exact.model)
    noisy.nats_of_noise = nats
    measured = []
    for seed in range(12):
        with seeded(seed):
            measured.append(measure(noisy, ROWS, update, BATCH_TOKENS).noise)
    num_targets = len(ROWS[0][0].labels)
    expected = nats * np.sqrt(2 / num_targets) / update.moved_nats
    assert np.mean(measured) == pytest.approx(expected, rel=0.35)


class OffAtBase(CausalLM):
    """A Llama whose losses are off by a fixed amount for each row, but only while its weights are where they were."""

    nats_off, unmoved = 1e-3, -1

    def loss(self, batch: TokenBatch) -> ExampleLoss:
        clean = super().loss(batch)
        if self.weight().data_ptr() != self.unmoved:
            return clean
        error_B = self.nats_off * torch.sin(1000.0 * batch.input_ids_BT.double().pow(2).sum(1))
        assert clean.target_nats is not None
        return clean._replace(target_nats=clean.target_nats + error_B.repeat_interleave(clean.num_targets))

    def weight(self) -> torch.Tensor:
        return self.module.get_parameter("model.layers.0.mlp.up_proj.weight")


def test_an_error_of_the_base_loss_is_noise_whatever_the_step(exact: CausalLM) -> None:
    """It is the same in every measurement, and shows only against a smaller step and the reverse one."""
    update = mirrored_update(exact, QUERIES[0], UpdateSpec(kind="sgd", move_nats=0.02))
    off = OffAtBase(exact.model)
    off.unmoved = off.weight().data_ptr()
    squares = [np.sin(1000.0 * float((row[0].input_ids.astype(float) ** 2).sum())) ** 2 for row in ROWS]
    expected = off.nats_off * np.sqrt(np.mean(squares)) / update.moved_nats
    assert measure(off, ROWS, update, BATCH_TOKENS).noise == pytest.approx(expected, rel=0.1)


def test_the_curved_part_grows_with_the_step_and_the_signal_does_not(exact: CausalLM) -> None:
    small, large = (
        measure(exact, ROWS, mirrored_update(exact, QUERIES[0], UpdateSpec(kind="sgd", move_nats=nats)), BATCH_TOKENS)
        for nats in (0.01, 0.04)
    )
    assert large.curved == pytest.approx(4 * small.curved, rel=0.2)
    assert large.signal == pytest.approx(small.signal, rel=0.05)


def test_coarse_weights_hold_an_update_in_the_mean() -> None:
    """Rounded to the nearest, an update of a tenth of the grid would be lost altogether."""
    weights = torch.nn.Linear(400, 100, bias=False, dtype=torch.bfloat16)
    torch.nn.init.constant_(weights.weight, 1.0)  # bfloat16 next to 1 has steps of 2⁻⁷ upwards
    with moved(weights, {"weight": torch.full((100, 400), 0.1 / 128)}):
        change = weights.weight.detach().float() - 1
    assert set(change.unique().tolist()) == {0.0, 1 / 128}
    assert float(change.mean()) == pytest.approx(0.1 / 128, rel=0.05)


def test_rounding_at_random_is_the_same_each_time() -> None:
    layer = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    deltas: dict[str, Any] = {"weight": torch.full((8, 8), 1e-4)}
    seen = []
    for _ in range(2):
        with moved(layer, deltas):
            seen.append(layer.weight.data.clone())
    assert torch.equal(*seen)
