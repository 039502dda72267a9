"""The non-convex check: mislabelled groups, rows of weight 0, and a run that is broken off."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from verification_example import draw_images

from finf_core.errors import InputError
from tasks.progress import Meter
from tasks.verification.cnn import SIDE, TrainSettings, image_nats, pixels, train
from tasks.verification.groups import Groups
from tasks.verification.images import NUM_CLASSES, Images, split
from tasks.verification.mislabelled import draw_balanced, draw_groups, mislabel
from tasks.verification.mislabelled_images import GroupSettings, MislabelledImages
from tasks.verification.nonconvex import Nonconvex, NonconvexSettings
from tasks.verification.points import Points, PointSettings
from tasks.verification.presets import preset_settings
from tasks.verification.products import Products

TINY = TrainSettings(filters=(4, 4), hidden=8, epochs=2, batch_rows=16)
SETTINGS = NonconvexSettings(
    GroupSettings(num_train=40, num_test=100, test_per_class=2, num_groups=6, num_inits=2, training=TINY),
    PointSettings(num_train=20, num_test=30, num_left_out=4, num_queries=2, num_seeds=2, training=TINY),
)


def run(check: Nonconvex) -> dict[str, Any]:
    for _, work in check.stages(Meter()):
        work()
    return check.result()


def open_groups(settings: GroupSettings, train_images: Images, test_images: Images, folder: Path) -> Groups:
    problem = MislabelledImages(settings, train_images, test_images)
    return Groups(problem, settings.num_inits, settings.seed, Products(str(folder)))


def nats_after(images: Images, weights: torch.Tensor, settings: TrainSettings = TINY, seed: int = 0) -> torch.Tensor:
    shades, labels = pixels(images), torch.from_numpy(images.labels_N)
    return image_nats(train(shades, labels, weights, settings, seed), shades, labels)


def test_a_row_of_weight_zero_is_not_seen() -> None:
    images = draw_images(33, SIDE)
    weights = torch.ones(33)
    weights[5] = 0
    other = Images(images.pixels_NP.copy(), images.labels_N.copy())
    other.pixels_NP[5], other.labels_N[5] = 255, (images.labels_N[5] + 1) % NUM_CLASSES
    seen = np.arange(33) != 5
    assert torch.equal(nats_after(images, weights)[seen], nats_after(other, weights)[seen])
    assert not torch.equal(nats_after(images, torch.ones(33))[seen], nats_after(other, torch.ones(33))[seen])


def test_a_batch_of_rows_left_out_changes_nothing() -> None:
    one_a_batch = replace(TINY, batch_rows=1, epochs=1)
    images = draw_images(6, SIDE)
    weights = torch.zeros(6)
    untrained, settings = nats_after(images, weights, one_a_batch), replace(one_a_batch, epochs=0)
    assert torch.equal(untrained, nats_after(images, weights, settings))


def test_a_training_depends_on_its_seed_alone_and_leaves_the_global_generator_as_it_was() -> None:
    images, weights = draw_images(20, SIDE), torch.ones(20)
    state = torch.random.get_rng_state()
    first = nats_after(images, weights)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(nats_after(images, weights), first)
    assert not torch.equal(nats_after(images, weights, seed=1), first)


def test_a_learning_rate_that_decays_gives_another_model() -> None:
    images, weights = draw_images(20, SIDE), torch.ones(20)
    assert not torch.equal(nats_after(images, weights, replace(TINY, decays=True)), nats_after(images, weights))


def test_the_share_of_rows_that_is_mislabelled_gets_another_label() -> None:
    images = draw_images(41, SIDE)
    is_wrong, rows = mislabel(images, 0.5, np.random.default_rng(0))
    assert np.array_equal(rows.labels_N != images.labels_N, is_wrong)
    assert is_wrong.sum() == 21
    assert set(rows.labels_N) <= set(range(NUM_CLASSES))


def test_groups_are_equally_large_and_hold_their_share_of_mislabelled_rows() -> None:
    is_wrong = np.arange(40) % 2 == 0
    groups = draw_groups(is_wrong, np.linspace(0, 1, 5), np.random.default_rng(0))
    assert [len(set(group)) for group in groups] == [20] * 5
    assert [int(is_wrong[group].sum()) for group in groups] == [0, 5, 10, 15, 20]


def test_the_test_group_has_every_class_equally_often() -> None:
    labels = draw_images(200, SIDE).labels_N
    chosen = draw_balanced(labels, 3, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [3] * NUM_CLASSES
    assert len(set(chosen)) == 30


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("nonconvex")
    return folder, run(Nonconvex(SETTINGS, draw_images(150, SIDE), Products(str(folder))))


def test_a_run_that_was_broken_off_ends_with_the_same_numbers(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = finished
    for name in ("group-02-init-1", "with-init-0", "points-seed-1"):
        (folder / f"{name}.safetensors").unlink()
    assert run(Nonconvex(SETTINGS, draw_images(150, SIDE), Products(str(folder)))) == expected


def test_the_differences_are_means_over_trainings_of_loss_without_minus_loss_with(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = finished
    check = Nonconvex(SETTINGS, draw_images(150, SIDE), Products(str(folder))).groups

    def mean_nats(name: str, part: str, rows: slice | np.ndarray) -> float:
        losses = [Products(str(folder)).read(f"{name}-init-{init}")[part][rows] for init in range(2)]
        return float(np.mean([list(map(float, nats)) for nats in losses]))

    for number, group in enumerate(check.problem.groups):
        left_out = mean_nats(f"group-{number:02d}", "test", slice(None)) - mean_nats("all", "test", slice(None))
        assert result["left_out_nats"][number] == pytest.approx(left_out, abs=1e-6)
        added = mean_nats("all", "rows", group) - mean_nats("with", "rows", group)
        assert result["added_nats"][number] == pytest.approx(added, abs=1e-6)


def test_a_group_that_is_left_out_is_not_seen(tmp_path: Path) -> None:
    images, settings = draw_images(150, SIDE), replace(SETTINGS.groups, num_inits=1)
    train_images, test_images = split(images, settings.num_train, settings.num_test, settings.seed)
    first = open_groups(settings, train_images, test_images, tmp_path / "first")
    train_images.pixels_NP[first.problem.groups[1]] = 255
    second = open_groups(settings, train_images, test_images, tmp_path / "second")
    first.train_all(Meter())
    second.train_all(Meter())
    changed = {
        name: not np.array_equal(first.products.read(name)["test"], second.products.read(name)["test"])
        for name in ("group-01-init-0", "group-03-init-0", "all-init-0", "with-init-0")
    }
    assert changed == {"group-01-init-0": False, "group-03-init-0": True, "all-init-0": True, "with-init-0": True}


def test_the_test_group_is_seen_where_it_is_added_and_nowhere_else(tmp_path: Path) -> None:
    images, settings = draw_images(150, SIDE), replace(SETTINGS.groups, num_inits=1)
    train_images, test_images = split(images, settings.num_train, settings.num_test, settings.seed)
    other_test = Images(255 - test_images.pixels_NP, test_images.labels_N)
    checks = [
        open_groups(settings, train_images, test, tmp_path / name)
        for name, test in (("first", test_images), ("second", other_test))
    ]
    for check in checks:
        check.train_all(Meter())
    names = ("with-init-0", "all-init-0", "group-01-init-0")
    rows = [[check.products.read(name)["rows"] for name in names] for check in checks]
    assert [np.array_equal(*pair) for pair in zip(*rows, strict=True)] == [False, True, True]


def test_a_single_row_left_out_is_not_seen_and_a_query_added_is(tmp_path: Path) -> None:
    settings = replace(SETTINGS.points, num_seeds=1)
    rows, test_images = split(draw_images(150, SIDE), settings.num_train, settings.num_test, settings.seed)
    first = Points(settings, rows, test_images, Products(str(tmp_path / "first")))
    first.train_all(Meter())
    queries = np.argsort(-first.products.read("points-base")["test"][0])[:2]
    rows.pixels_NP[first.left_out[1]] ^= 1  # too little to choose other queries
    second = Points(settings, rows, test_images, Products(str(tmp_path / "second")))
    second.train_all(Meter())
    without = [points.products.read("points-seed-0")["without_KQ"] for points in (first, second)]
    assert [bool((without[0][row] == without[1][row]).all()) for row in range(4)] == [False, True, False, False]

    joined = [
        Images(*(np.concatenate([old, new[[query]]]) for old, new in zip(rows, test_images, strict=True)))
        for query in queries
    ]
    seed = int(np.random.SeedSequence([settings.seed, 0]).generate_state(1)[0])
    expected = [nats_after(images, torch.ones(21), TINY, seed)[:20] for images in joined]
    found = second.products.read("points-seed-0")["with_QN"]
    assert np.allclose(found, torch.stack(expected).numpy(), atol=1e-6)


def test_single_rows_are_correlated_query_by_query(finished: tuple[Path, dict[str, Any]]) -> None:
    points = finished[1]["points"]
    assert len(points["pearson_per_query"]) == 2
    assert 0 <= points["spearman_noise_ceiling"] <= 1


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="no preset 'linear'; want one of convex, nonconvex, classifier, "):
        preset_settings("linear")


def test_a_seed_reaches_every_part_of_a_preset() -> None:
    settings = preset_settings("nonconvex", 7)
    assert isinstance(settings, NonconvexSettings)
    assert (settings.groups.seed, settings.points.seed) == (7, 7)
