"""Training rows by harm to clean rows: `finf mislabel`."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import image_example
import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from image_example import digit_network, digits
from noisy_example import NAMES, NUM_ROWS, NUM_WRONG, write_noisy_example, wrong_rows
from report_page import OpenPage, overflow
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from test_scan import FINF, WAIT_SECONDS
from tiny_classifiers import as_rows, examples, tiny_mlp

from finf_core import UpdateSpec, mirrored_update, score_rows
from finf_core.errors import InputError
from finf_core.outliers import Outliers
from finf_core.scores import harm, influence_score, pull, row_ratio
from finf_core.spec import CorpusSpec
from tasks import storage
from tasks.config import parse_config

HARM_TOLERANCE = 2e-3  # of the largest: float32 losses of some 0.001 nats, and their differences


# ---- harm ------------------------------------------------------------------------------------------------------------


def test_a_row_that_gains_when_the_queries_are_unlearned_is_harmful() -> None:
    ratio_RQ = np.array([[0.4, 0.2], [-0.3, -0.1], [0.5, -0.5]])
    assert harm(ratio_RQ, np.array([1.0, 1.0])).tolist() == pytest.approx([-0.3, 0.2, 0.0])
    assert harm(ratio_RQ, np.array([1.0, 3.0])).tolist() == pytest.approx([-0.25, 0.15, 0.25])


@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_harm_to_a_group_is_that_to_its_parts_weighted_by_their_pull(direction: Any) -> None:
    """A small step is linear: whether clean rows are asked together or class by class is the same."""
    adapter, rows = tiny_mlp(), as_rows(examples((5,), 30, seed=1))
    clean = examples((5,), 40, seed=2)
    spec = UpdateSpec(kind="sgd", move_nats=1e-5, direction=direction)
    parts = [[each for each in clean if each.label == label] for label in range(4)]
    assert len({len(part) for part in parts}) > 1  # or the number of targets could not matter

    def harm_of(queries: Any) -> Any:
        updates = [mirrored_update(adapter, query, spec) for query in queries]
        losses = score_rows(adapter, rows, updates, 64)
        score_RQ = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, direction)
        moved_Q = np.array([update.moved_nats for update in updates])
        counts_Q = np.array([float(update.num_targets) for update in updates])
        weight_Q = pull(counts_Q, moved_Q, np.array([update.step_size for update in updates]))
        return harm(row_ratio(score_RQ, losses.num_targets_R, moved_Q), weight_Q)

    together_R, apart_R = harm_of([clean]), harm_of(parts)
    assert np.corrcoef(together_R, apart_R)[0, 1] > 0.9999
    assert (np.sign(together_R) == np.sign(apart_R)).all()


# ---- outliers --------------------------------------------------------------------------------------------------------


def test_profiles_unlike_the_others_stand_out_and_the_seed_is_kept() -> None:
    draw = np.random.default_rng(0)
    profile_RQ = draw.normal(0, 0.01, (300, 6)).astype(np.float32)
    odd = [3, 77, 200]
    profile_RQ[odd] += np.array([0.2, -0.2, 0.2, -0.2, 0, 0], np.float32)
    score_R = Outliers(profile_RQ, seed=1).score(profile_RQ)
    assert set(np.argsort(-score_R)[:3].tolist()) == set(odd)
    assert score_R.tolist() == Outliers(profile_RQ, seed=1).score(profile_RQ).tolist()
    assert score_R.tolist() != Outliers(profile_RQ, seed=2).score(profile_RQ).tolist()


# ---- the config ------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> dict[str, Any]:
    table: dict[str, Any] = {
        "kind": "mislabel",
        "name": "labels",
        "model": {"kind": "classifier", "path": "m", "factory": "a:b"},
        "corpus": {"path": "c", "image_column": "image", "label_column": "label"},
        "queries": {"path": "q"},
    }
    return table | changes


def test_every_row_is_scored_for_every_query_unless_the_config_says_otherwise_and_then_it_is_refused() -> None:
    assert parse_config(config(), "x.toml").strategy.kind == "every_query"
    for changes, said in (
        ({"strategy": {"kind": "one_pass"}}, "no strategy.kind = 'one_pass'"),
        ({"rank": {"by": "control_z"}}, "not by rank.by = 'control_z'"),
        ({"model": {"path": "m"}, "corpus": {"path": "c"}}, "wants model.kind = 'classifier'"),
        ({"corpus": {"path": "c", "label_names": ["cat"]}, "model": {"path": "m"}}, "label_names goes with"),
        ({"queries": {"path": "q", "controls": "k"}}, "controls are for verdicts"),
    ):
        with pytest.raises(InputError, match=said):
            parse_config(config(**changes), "x.toml")


def test_a_class_without_a_name_is_called_by_its_number() -> None:
    corpus = CorpusSpec(path="c", image_column="image", label_column="label", label_names=("cat", "dog"))
    assert [corpus.label_name(label) for label in range(3)] == ["cat", "dog", "2"]


# ---- the whole run ---------------------------------------------------------------------------------------------------


def run_mislabel(config: Path, store: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The factory lies in tests/."""
    environment = environment | {
        "PYTHONPATH": f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}".rstrip(":")
    }
    command = [FINF, "mislabel", str(config), "--store", str(store), "--actors", "1", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_wrong_labels_come_first_as_slowly_computed_and_what_is_lost_is_made_again(
    tmp_path: Path, finf_environment: dict[str, str], open_page: OpenPage
) -> None:
    table = write_noisy_example(tmp_path)
    file = tmp_path / "labels.toml"
    file.write_text(image_example.toml(table))
    found = run_mislabel(file, tmp_path / "store", finf_environment)
    run = Path(found["run"])
    suspects = storage.read_table(str(run / "suspects.parquet"))
    names = [f"train-{row}" for row in range(NUM_ROWS)]
    assert sorted(suspects["document_id"].to_pylist()) == sorted(names)
    assert suspects["rank"].to_pylist() == list(range(1, NUM_ROWS + 1))
    assert (np.diff(suspects["harm"].to_numpy()) <= 0).all()

    by_row = suspects.take(pc.index_in(names, value_set=suspects["document_id"].combine_chunks()))
    is_wrong = np.isin(np.arange(NUM_ROWS), wrong_rows())
    harm_R = by_row["harm"].to_numpy()
    assert roc_auc_score(is_wrong, harm_R) > 0.75
    assert is_wrong[np.argsort(-harm_R)[: NUM_WRONG // 2]].mean() > 0.7  # 0.15 by chance
    assert roc_auc_score(is_wrong, by_row["outlier"].to_numpy()) > 0.8
    places = list(zip(by_row["shard"].to_pylist(), by_row["row"].to_pylist(), strict=True))
    assert places[250] == (str(tmp_path / "corpus" / "1.parquet"), 50)

    slow = slow_rows(tmp_path, tmp_path / "store", by_row["label"].to_pylist())
    for column in ("loss_nats", "label_probability", "suggested_probability"):
        assert by_row[column].to_pylist() == pytest.approx([row[column] for row in slow], abs=1e-5)
    assert by_row["suggested_label"].to_pylist() == [row["suggested_label"] for row in slow]
    slow_harm_R = np.array([row["harm"] for row in slow])
    assert harm_R == pytest.approx(slow_harm_R, abs=HARM_TOLERANCE * np.abs(slow_harm_R).max())

    report = json.loads((run / "report.json").read_text())
    [cards] = [listed["cards"] for group in report["groups"] for listed in group["lists"]]
    assert [card["title"] for card in cards] == suspects["document_id"].to_pylist()[:12]
    assert all(card["picture"] for card in cards)
    assert {card["facts"]["label"] for card in cards} <= set(NAMES)
    page = open_page(report)
    assert page.locator("img.picture").count() == 12
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth === 8)")
    assert page.locator("h2").all_inner_texts()[:2] == ["Suspects by class", "Labels that are taken for one another"]
    assert overflow(page) == 0

    before = (run / "suspects.parquet").read_bytes()
    [labels] = (tmp_path / "store" / "cache").glob("labels-*")
    units = sorted(labels.iterdir())
    kept = units[1].stat().st_mtime_ns
    for lost in (units[0], run / "suspects.parquet", run / "report.json"):
        lost.unlink()
    assert run_mislabel(file, tmp_path / "store", finf_environment)["run"] == str(run)
    assert (run / "suspects.parquet").read_bytes() == before
    assert units[0].exists()
    assert units[1].stat().st_mtime_ns == kept


def slow_rows(folder: Path, store: Path, labels: list[int]) -> list[dict[str, float]]:
    """What the run says of each row, one at a time: float64 networks, Python floats, the updates of the store."""
    base = network(load_file(folder / "model" / "model.safetensors"))
    [updates] = (store / "cache").glob("updates-*")
    moved = []
    for numbers_file in sorted(updates.glob("*.json")):
        deltas = load_file(numbers_file.with_suffix(".safetensors"))
        moved.append((json.loads(numbers_file.read_text()), network(base.state_dict(), deltas)))
    weights = [each["num_targets"] * each["moved_nats"] / each["step_size"] for each, _ in moved]
    rows = []
    for image, label in zip(digits()[0][:NUM_ROWS], labels, strict=True):
        chances = chances_of(base, image)
        loss = -math.log(chances[label])
        gains = [(loss + math.log(chances_of(other, image)[label])) / each["moved_nats"] for each, other in moved]
        best = max(range(10), key=chances.__getitem__)
        rows.append(
            {
                "loss_nats": loss,
                "label_probability": chances[label],
                "suggested_label": best,
                "suggested_probability": chances[best],
                "harm": sum(weight * gain for weight, gain in zip(weights, gains, strict=True)) / sum(weights),
            }
        )
    return rows


def network(state: dict[str, torch.Tensor], deltas: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    built = digit_network().double().eval()
    built.load_state_dict({key: value.double() + (deltas or {}).get(key, 0) for key, value in state.items()})
    return built


@torch.no_grad()
def chances_of(model: torch.nn.Module, image: Any) -> list[float]:
    logits = model(torch.tensor(image.tolist(), dtype=torch.float64)[None, None] / 255)[0].tolist()
    top = max(logits)
    exponentials = [math.exp(each - top) for each in logits]
    return [each / sum(exponentials) for each in exponentials]
