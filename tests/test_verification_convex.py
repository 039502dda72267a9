"""The convex check: refits against fits from zero, correlations of samples, and a run that is broken off."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from verification_example import draw_images, write_files

from tasks import storage
from tasks.progress import Meter
from tasks.verification.agreement import agreement, extrapolated, weighted_pearson, weighted_spearman
from tasks.verification.authors_refits import fit_like_authors, refit_like_authors
from tasks.verification.convex import Convex, ConvexSettings
from tasks.verification.images import NUM_CLASSES, Images
from tasks.verification.lockstep import minimize_together
from tasks.verification.presets import open_verification
from tasks.verification.products import Products
from tasks.verification.refits import refit
from tasks.verification.softmax_regression import Objective, Rows, as_rows, nats, solve

NATS = 1e-8  # of losses by two ways of solving to the end
SHORT_NATS = 1e-4  # of losses by two ways that stop short of it
SETTINGS = ConvexSettings(
    num_train=60, num_test=40, num_queries=3, batch_rows=25, num_top=2, num_drawn=10, recipe_batch_rows=8, num_cold=2
)


def rows_of(images: Images) -> Rows:
    return as_rows(images.shades_NP(), images.labels_N)


@pytest.fixture(scope="module")
def objective() -> Objective:
    return Objective(rows_of(draw_images(60, side=3)), NUM_CLASSES, weight_decay=0.01)


@pytest.fixture(scope="module")
def others() -> Rows:
    return rows_of(draw_images(70, side=3)).take(torch.arange(60, 70))


def without(objective: Objective, row: int) -> Objective:
    return objective._replace(rows=objective.rows.take(torch.arange(objective.num_rows) != row))


def with_row(objective: Objective, rows: Rows, row: int) -> Objective:
    joined = (torch.cat([old, new[row : row + 1]]) for old, new in zip(objective.rows, rows, strict=True))
    return objective._replace(rows=Rows(*joined))


def nats_by_scikit_learn(objective: Objective, rows: Rows) -> torch.Tensor:
    """Losses of rows after scikit-learn has fitted the objective; shares no code with ours."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression(
        C=1 / (objective.num_rows * objective.weight_decay), tol=1e-12, max_iter=10_000, solver="newton-cholesky"
    )
    model.fit(objective.rows.features_NF[:, :-1].numpy(), objective.rows.labels_N.numpy())
    log_chances_NC = model.predict_log_proba(rows.features_NF[:, :-1].numpy())
    return torch.from_numpy(-log_chances_NC[np.arange(len(rows.labels_N)), rows.labels_N.numpy()])


def test_the_solution_is_scikit_learns(objective: Objective, others: Rows) -> None:
    expected = nats_by_scikit_learn(objective, others)
    torch.testing.assert_close(nats(solve(objective).weights_CF, others), expected, atol=NATS, rtol=0)


def test_a_refit_without_a_row_equals_a_fit_from_zero(objective: Objective, others: Rows) -> None:
    refits_BCF = refit(objective, solve(objective), objective.rows.take(torch.arange(12)), -1)
    for row, weights_CF in enumerate(refits_BCF):
        expected = nats_by_scikit_learn(without(objective, row), others)
        torch.testing.assert_close(nats(weights_CF, others), expected, atol=NATS, rtol=0)


def test_a_refit_with_a_row_more_equals_a_fit_from_zero(objective: Objective, others: Rows) -> None:
    for row, weights_CF in enumerate(refit(objective, solve(objective), others, +1)):
        expected = nats_by_scikit_learn(with_row(objective, others, row), objective.rows)
        torch.testing.assert_close(nats(weights_CF, objective.rows), expected, atol=NATS, rtol=0)


def test_a_refit_does_not_depend_on_the_other_rows_of_its_batch(objective: Objective) -> None:
    solution = solve(objective)
    together = refit(objective, solution, objective.rows.take(torch.arange(12)), -1)
    alone = refit(objective, solution, objective.rows.take(torch.tensor([7])), -1)
    torch.testing.assert_close(together[7:8], alone, atol=NATS, rtol=0)


def test_the_authors_refit_equals_their_fit_of_the_rows_that_are_left(objective: Objective, others: Rows) -> None:
    """Their fits stop short of the minimum, at a point that rounding can move a little."""
    left_out = refit_like_authors(objective, objective.rows.take(torch.arange(3)), -1)
    added = refit_like_authors(objective, others.take(torch.arange(3)), +1)
    for row in range(3):
        for weights_CF, problem in (
            (left_out[row], without(objective, row)),
            (added[row], with_row(objective, others, row)),
        ):
            expected = nats(fit_like_authors(problem), others)
            torch.testing.assert_close(nats(weights_CF, others), expected, atol=SHORT_NATS, rtol=0)


def test_minimisations_in_lockstep_go_the_way_that_each_goes_alone() -> None:
    scales_BD = np.random.default_rng(0).uniform(0.1, 50, (5, 4))

    def batched(which_B: np.ndarray, points_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.cosh(points_BD * scales_BD[which_B] - 1).sum(1), np.sinh(
            points_BD * scales_BD[which_B] - 1
        ) * scales_BD[which_B]

    found_BD = minimize_together(batched, np.zeros((5, 4)), {"gtol": 1e-6})
    for index in range(5):

        def alone(point_D: np.ndarray, index: int = index) -> tuple[float, np.ndarray]:
            values, gradients = batched(np.array([index]), point_D[None])
            return float(values[0]), gradients[0]

        expected = optimize.minimize(alone, np.zeros(4), jac=True, method="L-BFGS-B", options={"gtol": 1e-6})
        assert np.array_equal(found_BD[index], expected.x)


def test_an_error_in_the_batch_ends_every_minimisation_of_it() -> None:
    def broken(which_B: np.ndarray, points_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (points_BD != 0).any():
            raise FloatingPointError("no number")
        return points_BD.sum(1), np.ones_like(points_BD)

    num_threads = threading.active_count()
    with pytest.raises(FloatingPointError, match="no number"):
        minimize_together(broken, np.zeros((5, 4)), {})
    assert threading.active_count() == num_threads


def test_a_row_that_stands_for_three_counts_as_three_rows() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 20, 3))
    counts = np.repeat([1.0, 3.0], 10)
    copies = np.repeat(np.arange(20), counts.astype(int))
    for query in range(3):
        pair = first[copies, query], second[copies, query]
        assert weighted_pearson(first, second, counts)[query] == pytest.approx(stats.pearsonr(*pair)[0])
        assert weighted_spearman(first, second, counts)[query] == pytest.approx(stats.spearmanr(*pair)[0])


def test_an_interval_over_rows_is_given_for_a_sample_only_and_holds_the_estimate() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 40, 3)) + np.arange(40)[:, None] / 20
    assert "pearson_interval_rows" not in agreement(first, second, np.ones(40), seed=0)
    found = agreement(first, second, np.repeat([1.0, 5.0], 20), seed=0)
    low, high = found["spearman_interval_rows"]
    assert low < found["spearman"] < high


def test_what_a_sample_of_errors_does_to_all_rows_is_what_the_same_errors_do_everywhere() -> None:
    generator = np.random.default_rng(0)
    added = generator.normal(size=(3000, 2))
    noisy = added + generator.normal(size=added.shape)
    expected = [stats.spearmanr(noisy[:, query], added[:, query])[0] for query in range(2)]
    rows = np.arange(0, 3000, 10)
    found = extrapolated(added, rows, noisy[rows], added, seed=0)
    assert found["spearman"] == pytest.approx(np.mean(expected), abs=0.03)
    assert found["pearson"] == pytest.approx(0.5**0.5, abs=0.03)
    exact = extrapolated(added, rows, added[rows], added, seed=0)
    assert (exact["pearson"], exact["spearman"]) == (pytest.approx(1), pytest.approx(1))


def run(check: Convex) -> dict[str, object]:
    for _, work in check.stages(Meter()):
        work()
    return check.result()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("convex")
    return folder, run(Convex(SETTINGS, draw_images(100, side=3), Products(str(folder))))


def test_solved_refits_agree_with_fits_from_zero_and_bear_the_hypothesis_out(
    finished: tuple[Path, dict[str, object]],
) -> None:
    _, result = finished
    assert result["check_from_zero"]["largest_gap_nats"] < NATS
    assert result["solved"]["pearson"] > 0.9
    assert len(result["solved"]["spearman_per_query"]) == len(result["pearson_per_query"]) == 3


def test_the_recipe_is_weighed_back_to_all_rows(finished: tuple[Path, dict[str, object]]) -> None:
    check = Convex(SETTINGS, draw_images(100, side=3), Products(str(finished[0])))
    rows, counts = check.sample()
    assert len(set(rows.tolist())) == len(rows) == len(counts)
    assert counts.sum() == pytest.approx(60)
    assert (counts > 1).sum() == 10


def test_a_run_that_was_broken_off_makes_only_what_is_missing(finished: tuple[Path, dict[str, object]]) -> None:
    folder, expected = finished
    lost = {
        path.name for batch in ("solved-without-00025", "authors-without-00008") for path in folder.glob(f"{batch}-*")
    }
    assert len(lost) == 2
    for name in lost:
        (folder / name).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = run(Convex(SETTINGS, draw_images(100, side=3), Products(str(folder))))
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == lost
    assert result["solved"] == expected["solved"]
    assert result["pearson"] == pytest.approx(expected["pearson"], abs=SHORT_NATS)


def test_runs_of_other_data_sizes_or_seeds_have_folders_of_their_own(tmp_path: Path) -> None:
    store, first, second = (tmp_path / name for name in ("store", "first", "second"))
    for seed, folder in enumerate((first, second)):
        folder.mkdir()
        write_files(folder, draw_images(100, side=3, seed=seed), num_train=60, side=3)
    other_seed = ConvexSettings(num_train=60, num_test=40, seed=1)
    pairs = ((SETTINGS, first), (SETTINGS, second), (other_seed, first))
    checks = [open_verification(settings, str(store), data) for settings, data in pairs]
    assert len({check.check.products.folder for check in checks}) == 3
    assert storage.list_names(str(store)) == set()
