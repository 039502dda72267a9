"""Fitting a curvature, keeping it as tensors and reading it again: `finf_core.curvature`."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tiny_classifiers import as_rows, examples, slow_gradients, tiny_cnn, tiny_logreg, tiny_mlp
from tiny_models import cut, load_tiny_llama, save_tiny_llama, tiny_gpt2, tiny_row
from torch import Tensor

from finf_core.classifier import Classifier, Labeled
from finf_core.curvature import curvature_from_tensors, fit_curvature
from finf_core.diagonal import DiagonalCurvature
from finf_core.errors import InputError
from finf_core.kronecker import KroneckerCurvature
from finf_core.spec import UpdateSpec

FITTED = ["diagonal", "kfac", "ekfac", "exact"]
EXAMPLES = examples((5,), 30)
LM_ROWS = [cut(tiny_row(8, seed=200)), cut(tiny_row(20, seed=201)), cut(tiny_row(9, seed=202, num_context=4))]

every_kind = pytest.mark.parametrize("kind", FITTED)


def fit(adapter: Any, rows: Sequence[Sequence[Any]], **spec: Any) -> Any:
    return fit_curvature(adapter, rows, UpdateSpec(**spec), batch_tokens=40)


def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through the bytes of a file."""
    return load(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def random_gradients(adapter: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)
    named = adapter.module.named_parameters()
    return {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in named}


def assert_same_direction(adapter: Any, found: Any, expected: Any) -> None:
    gradients = random_gradients(adapter)
    theirs = expected.precondition(adapter.module, gradients)
    assert theirs
    torch.testing.assert_close(found.precondition(adapter.module, gradients), theirs, rtol=1e-9, atol=1e-12)


# ---- kept as tensors -------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("damping", [None, 0.7])
def test_a_curvature_read_again_gives_the_same_directions(kind: Any, damping: float | None) -> None:
    adapter, spec = tiny_mlp(), UpdateSpec(kind=kind, damping=damping)
    curvature = fit(adapter, as_rows(EXAMPLES), kind=kind, damping=damping)
    assert_same_direction(adapter, curvature_from_tensors(spec, kept(curvature.tensors())), curvature)


@every_kind
def test_one_fit_serves_every_damping(kind: Any) -> None:
    adapter = tiny_mlp()
    tensors = fit(adapter, as_rows(EXAMPLES), kind=kind, damping=0.01).tensors()
    expected = fit(adapter, as_rows(EXAMPLES), kind=kind, damping=0.5)
    found = curvature_from_tensors(UpdateSpec(kind=kind, damping=0.5), kept(tensors))
    assert_same_direction(adapter, found, expected)


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
@pytest.mark.parametrize(
    ("adapter", "rows"),
    [
        (tiny_gpt2(), LM_ROWS),
        (tiny_cnn(), as_rows(examples((2, 6, 6), 20))),
        (tiny_logreg(), as_rows(EXAMPLES)),
    ],
    ids=["gpt2", "cnn", "one layer"],
)
def test_factors_of_every_kind_of_layer_are_read_again(adapter: Any, rows: Any, kind: Any) -> None:
    """Biases, transposed weights, learned positions, convolutions, and a module that is itself the layer."""
    curvature = fit(adapter, rows, kind=kind, embeddings=True)
    found = curvature_from_tensors(UpdateSpec(kind=kind), kept(curvature.tensors()))
    assert_same_direction(adapter, found, curvature)


def test_sides_that_are_diagonal_are_read_again(tmp_path: Any) -> None:
    adapter = load_tiny_llama(save_tiny_llama(tmp_path))
    curvature = fit(adapter, LM_ROWS, kind="ekfac", embeddings=True, curvature_labels="data")
    found = curvature_from_tensors(UpdateSpec(kind="ekfac"), kept(curvature.tensors()))
    assert isinstance(found, KroneckerCurvature)
    assert found.factors["lm_head"].output_vectors_OO is None
    assert found.factors["model.embed_tokens"].corrected_OI is None
    assert_same_direction(adapter, found, curvature)


def test_second_moments_of_adam_are_read_as_a_diagonal() -> None:
    """P = 1 / (c + damping · mean of c), whatever c was."""
    spec = UpdateSpec(kind="adam_moments", optimizer_state="optimizer.pt", damping=0.5)
    found = curvature_from_tensors(spec, {"weight": torch.tensor([1.0, 3.0])})
    assert isinstance(found, DiagonalCurvature)
    step = found.precondition(torch.nn.Linear(1, 2), {"weight": torch.tensor([4.0, 4.0])})
    assert step["weight"].tolist() == [4 / (1 + 0.5 * 2), 4 / (3 + 0.5 * 2)]


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_sampled_labels_follow_the_seed_and_nothing_else(kind: Any) -> None:
    adapter = tiny_gpt2()
    tensors = [fit(adapter, LM_ROWS, kind=kind, seed=seed).tensors() for seed in (1, 1, 2)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert not all(torch.equal(tensors[0][name], tensors[2][name]) for name in tensors[0])
    of_data = [fit(adapter, LM_ROWS, kind=kind, seed=seed, curvature_labels="data").tensors() for seed in (1, 2)]
    assert all(torch.equal(of_data[0][name], of_data[1][name]) for name in of_data[0])


def test_eigenvalues_are_measured_under_the_labels_that_gave_the_eigenvectors() -> None:
    """Inputs of length one: then Σᵢ E[(uₒᵀg)² (vᵢᵀa)²] is 2 E[(uₒᵀg)²], twice G's own eigenvalue, for those labels."""
    rows = [[Labeled(example.features / example.features.norm(), 0)] for example in EXAMPLES]
    [factors] = fit(tiny_logreg(), rows, kind="ekfac").factors.values()
    torch.testing.assert_close(factors.corrected_OI.sum(dim=1), 2 * factors.output_values_O, rtol=1e-9, atol=1e-12)


def test_factors_of_drawn_labels_come_near_their_expectation() -> None:
    """G of the last layer is E[diag(p) − p pᵀ]."""
    adapter, few = tiny_logreg(), EXAMPLES[:5]
    [factors] = fit(adapter, as_rows(few * 800), kind="kfac").factors.values()
    exact_CC = torch.zeros(4, 4, dtype=torch.float64)
    for example in few:
        for label in range(4):
            bias_C = slow_gradients(adapter, example, label)["bias"]
            probability = float(adapter.module(example.features).softmax(-1)[label])
            exact_CC += probability * torch.outer(bias_C, bias_C) / len(few)
    found_CC = factors.output_vectors_OO * factors.output_values_O @ factors.output_vectors_OO.T
    assert (found_CC - exact_CC).norm() < 0.09 * exact_CC.norm()  # 4,000 draws spread by 0.026


class Unsampled:
    """An adapter with the three things that every adapter has."""

    def __init__(self, adapter: Classifier) -> None:
        self.module, self.collate, self.loss = adapter.module, adapter.collate, adapter.loss


@every_kind
def test_an_adapter_that_cannot_sample_labels_is_told_what_to_set(kind: Any) -> None:
    with pytest.raises(InputError, match="curvature_labels = 'data'"):
        fit(Unsampled(tiny_mlp()), as_rows(EXAMPLES), kind=kind)
    assert fit(Unsampled(tiny_mlp()), as_rows(EXAMPLES), kind=kind, curvature_labels="data").tensors()


# ---- what is not fitted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_update_without_curvature_fits_nothing(kind: Any) -> None:
    assert fit(tiny_mlp(), [], kind=kind) is None


def test_adam_moments_are_read_and_never_fitted() -> None:
    with pytest.raises(InputError, match="optimizer_state"):
        fit(tiny_mlp(), as_rows(EXAMPLES), kind="adam_moments", optimizer_state="optimizer.pt")


@every_kind
def test_fitting_leaves_the_model_as_it_was(kind: Any) -> None:
    adapter = tiny_cnn()
    rows = as_rows(examples((2, 6, 6), 6))
    before = {name: tensor.clone() for name, tensor in adapter.module.state_dict().items()}
    fit(adapter, rows, kind=kind)
    adapter.loss(adapter.collate(rows[0]))  # a hook left behind would ask for a gradient here
    assert all(torch.equal(adapter.module.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in adapter.module.parameters())


def test_a_classifier_s_factors_weigh_every_label_by_its_probability() -> None:
    """At the logits the Fisher matrix of a row is diag(p) − p pᵀ, with nothing drawn."""
    mlp, rows = tiny_mlp(), examples([5], 12)
    curvature = fit_curvature(mlp, as_rows(rows), UpdateSpec(kind="kfac"), 5)
    assert isinstance(curvature, KroneckerCurvature)
    values_O, vectors_OO = curvature.factors["2"].output_values_O, curvature.factors["2"].output_vectors_OO
    assert vectors_OO is not None
    probabilities = [mlp.module(row.features[None])[0].softmax(0).detach() for row in rows]
    expected = sum(torch.diag(p) - torch.outer(p, p) for p in probabilities) / len(rows)
    torch.testing.assert_close(vectors_OO * values_O @ vectors_OO.T, expected)


# ---- labels drawn in the pass that takes their loss ------------------------------------------------------------------


class OneOfOnesOwn:
    """An adapter with no more than `sample_labels` beside the loss: labels in one pass, their loss in another."""

    def __init__(self, inner: Any) -> None:
        self.module, self.head = inner.module, inner.head
        self.collate, self.loss, self.sample_labels = inner.collate, inner.loss, inner.sample_labels


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("kind", ["kfac", "ekfac"])
def test_drawing_and_loss_in_one_pass_fit_what_two_passes_fit(kind: Any, embeddings: bool, tmp_path: Any) -> None:
    """EK-FAC runs over the sample twice: other labels the second time would show in its eigenvalues."""
    llama = load_tiny_llama(save_tiny_llama(tmp_path))
    found = fit(llama, LM_ROWS * 4, kind=kind, embeddings=embeddings)
    assert_same_direction(llama, found, fit(OneOfOnesOwn(llama), LM_ROWS * 4, kind=kind, embeddings=embeddings))
