"""The group check for classifiers, language models and diffusion models: what is spoilt, and finf's own scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finf_core.scoring import score_rows
from tasks.progress import Meter
from tasks.verification.adapter_groups import AdapterCheck, AdapterSettings
from tasks.verification.presets import ADAPTERS
from tasks.verification.products import Products
from tasks.verification.spoilt_rows import make_material

TINY = {
    "classifier": replace(ADAPTERS["classifier"], num_rows=40, num_test=10, num_epochs=2, num_groups=4, num_inits=2),
    "diffusion": replace(ADAPTERS["diffusion"], num_rows=40, num_test=10, num_epochs=10, num_groups=4, num_inits=2),
    "causal_lm": replace(ADAPTERS["causal_lm"], num_rows=24, num_test=4, num_epochs=1, num_groups=4, num_inits=2),
}
KINDS = pytest.mark.parametrize("kind", TINY)


def run(settings: AdapterSettings, folder: Path) -> dict[str, Any]:
    check = AdapterCheck(settings, make_material(settings), Products(str(folder)))
    for _, work in check.stages(Meter()):
        work()
    return check.result()


def contents(row: Any) -> list[float]:
    """What a row says, label and all."""
    return [float(x) for example in row for part in vars(example).values() for x in np.ravel(part)]


@KINDS
def test_a_run_that_was_broken_off_ends_with_the_same_numbers(kind: str, tmp_path: Path) -> None:
    expected = run(TINY[kind], tmp_path)
    for name in ("group-02-init-1", "all-init-0"):
        (tmp_path / f"{name}.safetensors").unlink()
    assert run(TINY[kind], tmp_path) == expected
    assert len(expected["scores"]) == 4


@KINDS
def test_half_of_the_rows_are_spoilt_and_the_seed_says_which(kind: str) -> None:
    first, again = (make_material(TINY[kind]) for _ in range(2))
    other = make_material(replace(TINY[kind], seed=1))
    assert first.is_spoilt_N.sum() == len(first.rows) // 2
    for part in ("rows", "test"):
        assert [contents(row) for row in getattr(first, part)] == [contents(row) for row in getattr(again, part)]
    assert [contents(row) for row in first.rows] != [contents(row) for row in other.rows]


def test_half_of_the_digits_have_another_label_and_all_their_pixels() -> None:
    told, drawn = make_material(TINY["classifier"]), make_material(TINY["diffusion"])
    assert np.array_equal(told.is_spoilt_N, drawn.is_spoilt_N)
    for row, other, is_turned in zip(told.rows, drawn.rows, drawn.is_spoilt_N, strict=True):
        upright = row[0].features * 2 - 1
        assert torch.equal(other[0].features, upright.mT if is_turned else upright)
    right = share_labelled_as_the_nearest(told)
    assert right["spoilt"] < 0.5 < right["kept"]


def share_labelled_as_the_nearest(material: Any) -> dict[str, float]:
    """Share of rows whose label is that of the nearest test digit."""
    pixels, test = (torch.stack([row[0].features.flatten() for row in rows]) for rows in (material.rows, material.test))
    nearest = torch.cdist(pixels, test).argmin(1)
    same = np.array(
        [row[0].label == material.test[place][0].label for row, place in zip(material.rows, nearest, strict=True)]
    )
    return {"spoilt": same[material.is_spoilt_N].mean(), "kept": same[~material.is_spoilt_N].mean()}


def test_half_of_the_passages_are_the_same_tokens_in_another_order() -> None:
    from tasks.evaluation.tiny_lm import TinyLM

    material = make_material(TINY["causal_lm"])
    for row, plain, is_spoilt in zip(material.rows, TinyLM().rows[-24:], material.is_spoilt_N, strict=True):
        tokens, usual = ([int(label) for window in part for label in window.labels] for part in (row, plain))
        assert sorted(tokens) == sorted(usual)
        assert (tokens != usual) == is_spoilt
        assert row[0].input_ids.tolist() == [plain[0].input_ids[0], *tokens[:-1]]


@KINDS
def test_a_training_is_decided_by_its_seed_and_leaves_the_global_generator_as_it_was(kind: str) -> None:
    material, state = make_material(TINY[kind]), torch.random.get_rng_state()

    def nats(seed: int) -> list[float]:
        adapter = material.train(material.rows, seed)
        return score_rows(adapter, material.test, [], material.batch_tokens).base_nats_R.tolist()

    first = nats(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert nats(0) == first
    assert nats(1) != first


def test_leaving_out_adding_and_our_scores_agree_on_mislabelled_digits(tmp_path: Path) -> None:
    settings = replace(ADAPTERS["classifier"], num_rows=300, num_test=100, num_groups=8, num_inits=2)
    result = run(settings, tmp_path)
    assert result["spearman"] > 0.8
    assert result["scores_against_left_out"]["spearman"] > 0.8
    assert result["scores_against_added"]["spearman"] > 0.8
    assert result["left_out_nats"][0] > result["left_out_nats"][-1]
