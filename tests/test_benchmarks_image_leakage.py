"""What the benchmark of leakage in images counts, on numbers that are known."""

import numpy as np
import pytest

from benchmarks.image_leakage import KINDS, Inputs, change, figures, is_for_choosing, orders, places
from tasks.verification.images import Images

ROWS, OF_A_KIND, CLEAN = 40, 30, 25


@pytest.fixture
def inputs() -> Inputs:
    rng = np.random.default_rng(3)
    train = Images(rng.integers(0, 256, (ROWS, 784)).astype(np.uint8), rng.integers(0, 10, ROWS))
    kinds = [kind for kind in KINDS for _ in range(OF_A_KIND)] + ["clean"] * CLEAN
    true_rows = [int(rng.integers(ROWS)) if kind != "clean" else -1 for kind in kinds]
    return Inputs(train, [np.zeros((28, 28), np.uint8)] * len(kinds), [0] * len(kinds), kinds, true_rows)


def one_hot(inputs: Inputs) -> np.ndarray:
    values = np.zeros((ROWS, len(inputs.true_rows)))
    for query, row in enumerate(inputs.true_rows):
        if row >= 0:
            values[row, query] = 1.0
    return values


def test_a_row_s_place_is_how_many_come_before_it(inputs: Inputs) -> None:
    values = one_hot(inputs)
    values[(inputs.true_rows[0] + 1) % ROWS, 0] = 2.0
    values[(inputs.true_rows[0] + 2) % ROWS, 0] = 3.0
    values[inputs.true_rows[1], 1] = np.nan  # without a score: last
    found = places(values, inputs)
    assert found[:3].tolist() == [2, ROWS - 1, 0]
    assert set(found[-CLEAN:].tolist()) == {-1}


def test_rows_that_are_all_alike_find_nothing(inputs: Inputs) -> None:
    """A tie that counted for the true row would make constant scores perfect."""
    found = figures(np.ones((ROWS, len(inputs.true_rows))), inputs)
    assert {found[kind]["top5"] for kind in KINDS} == {0.0}
    assert {found[kind]["auc"] for kind in KINDS} == {0.5}


def test_scores_that_point_at_the_true_row_are_perfect_and_settings_are_chosen_on_others(inputs: Inputs) -> None:
    values, choosing = one_hot(inputs), is_for_choosing(inputs)
    perfect = figures(values, inputs)
    assert {(perfect[kind]["top1"], perfect[kind]["auc"]) for kind in KINDS} == {(1.0, 1.0)}
    assert perfect["chosen_by"] == 1.0
    values[:, choosing] = np.random.default_rng(0).random((ROWS, choosing.sum()))
    spoilt = figures(values, inputs)
    assert [spoilt[kind] for kind in KINDS] == [perfect[kind] for kind in KINDS]
    assert spoilt["chosen_by"] < 0.2
    assert 0.1 < choosing.mean() < 0.3


def test_the_absolute_change_knows_no_sign(inputs: Inputs) -> None:
    values = -one_hot(inputs)
    by_order = {name.split(", ")[1]: figures(each, inputs)["exact"]["top1"] for name, each in orders("x", values)}
    assert by_order["absolute change"] == 1.0
    assert by_order["signed"] == 0.0


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_near_duplicate_is_near_and_no_duplicate(kind: str) -> None:
    side = np.linspace(0, 3, 28)
    image = (120 * (1 + np.sin(side[:, None] * side[None, :]))).astype(np.uint8)
    other = np.random.default_rng(0).permutation(image.ravel()).reshape(28, 28)
    changed = change(image, kind, np.random.default_rng(1))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, image)
    assert distance(changed, image) < distance(other, image)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.square(first.astype(float) - second).sum())
