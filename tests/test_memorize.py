"""Training rows by their influence on themselves: `finf memorize`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import image_example
import numpy as np
import pytest
import scan_example
import torch
from image_example import as_png, digit_config, digit_network, digits, save_network, train_network, write_images
from report_page import OpenPage, overflow
from safetensors.torch import load_file
from test_scan import FINF, WAIT_SECONDS
from tiny_classifiers import as_rows, examples, slow_gradients, slow_probabilities, tiny_cnn, tiny_mlp
from transformers import AutoModelForCausalLM, AutoTokenizer

from finf_core import UpdateSpec, fit_curvature, mirrored_update
from finf_core.errors import InputError
from finf_core.near_duplicates import alike_images, alike_texts, groups_of, image_signature, text_signature
from finf_core.self_influence import self_influence, self_moving
from finf_core.spec import CorpusSpec, ModelSpec, ScanSpec
from tasks import storage
from tasks.config import parse_config
from tasks.memorized import rank_memorized
from tasks.near_duplicates import find_groups, group_bundles
from tasks.publish_report import publish_report
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import planned_units
from tasks.shard_scorer import ShardScorer
from tasks.shown_rows import publish_shown, shown_bundles

NUM_ROWS, NUM_WRONG, NUM_DOUBLES = 120, 12, 3
DAMPING = 0.2


# ---- self-influence --------------------------------------------------------------------------------------------------


def slow_self_influence(adapter: Any, group: Any, fisher_rows: Any) -> float:
    """GᵀPG / n by a dense inverse: the Fisher matrix row by row and class by class, from autograd alone."""

    def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([part.flatten() for part in gradients.values()])

    gradient = sum(flat(slow_gradients(adapter, example)) for example in group)
    fisher = torch.zeros(len(gradient), len(gradient), dtype=torch.float64)
    for example in fisher_rows:
        for label, chance in enumerate(slow_probabilities(adapter, example)):
            one = flat(slow_gradients(adapter, example, label))
            fisher += chance * torch.outer(one, one) / len(fisher_rows)
    damped = fisher + DAMPING * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=torch.float64)
    return float(gradient @ torch.linalg.inv(damped) @ gradient) / len(group)


@pytest.mark.parametrize("num_together", [1, 3])
def test_it_is_the_quadratic_form_of_the_gradient_as_slowly_computed(num_together: int) -> None:
    adapter, rows = tiny_mlp(), examples((5,), 20)
    spec = UpdateSpec(kind="exact", damping=DAMPING)
    curvature = fit_curvature(adapter, as_rows(rows), spec, 64)
    moving = self_moving(adapter, "all", curvature)
    group = rows[4 : 4 + num_together]
    found = self_influence(adapter, as_rows(group), moving, curvature)
    assert found.influence == pytest.approx(slow_self_influence(adapter, group, rows), rel=1e-6)
    squares = sum(float((sum(slow_gradients(adapter, each)[name] for each in group) ** 2).sum()) for name in moving)
    assert found.gradient_norm == pytest.approx(squares**0.5, rel=1e-9)
    assert self_influence(adapter, as_rows(group), moving, None).influence == pytest.approx(squares / num_together)


@pytest.mark.parametrize("kind", ["sgd", "kfac", "ekfac", "diagonal"])
def test_it_is_the_slope_that_the_row_s_own_update_starts_with(kind: Any) -> None:
    """Whatever P is: unlearn the row by very little, and divide the nats by the step that it took."""
    adapter, rows = tiny_cnn(), as_rows(examples((2, 6, 6), 16))
    spec = UpdateSpec(kind=kind, move_nats=1e-7)
    curvature = fit_curvature(adapter, rows, spec, 64)
    found = self_influence(adapter, [rows[3]], self_moving(adapter, "all", curvature), curvature)
    update = mirrored_update(adapter, rows[3], spec, curvature)
    assert found.influence == pytest.approx(update.moved_nats / update.step_size, rel=1e-3)


def test_n_copies_together_have_n_times_the_influence_of_one() -> None:
    adapter, rows = tiny_mlp(), as_rows(examples((5,), 4))
    moving = self_moving(adapter, "all", None)
    one, four = (self_influence(adapter, [rows[0]] * number, moving, None) for number in (1, 4))
    assert four.influence == pytest.approx(4 * one.influence)
    assert (four.nats, four.num_targets) == (pytest.approx(4 * one.nats), 4)


# ---- near-duplicates -------------------------------------------------------------------------------------------------


def test_images_that_differ_by_noise_are_alike_and_others_are_not() -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 30, 30), dtype=np.uint8)
    noisy = np.clip(images[7].astype(int) + draw.normal(0, 12, (30, 30)), 0, 255).astype(np.uint8)
    signatures = [image_signature(each) for each in [*images, noisy, images[2]]]
    assert sorted(alike_images(signatures, 0.03)) == [(2, 41), (7, 40)]
    assert sorted(alike_images(signatures, 0.0)) == [(2, 41)]
    slow = [
        (i, j)
        for j in range(len(signatures))
        for i in range(j)
        if sum((a - b) ** 2 for a, b in zip(signatures[i], signatures[j], strict=True)) / len(signatures[i])
        <= (0.16 * 255) ** 2
    ]
    assert sorted(alike_images(signatures, 0.16)) == sorted(slow)
    assert 10 < len(slow) < 400


def test_texts_that_share_their_words_are_alike_whatever_their_case_and_breaks() -> None:
    words = [f"word{number}" for number in range(100)]
    texts = [" ".join(words[:60]), " ".join(words[40:]), "\n".join(words[:58]).upper(), "too short", "too short"]
    signatures = [text_signature(each, 8) for each in texts]
    assert list(alike_texts(signatures, 0.5)) == [(0, 2)]
    assert text_signature("too short", 8) == b""


def test_groups_are_what_hangs_together() -> None:
    groups = groups_of([(5, 1), (1, 3), (8, 7)], 10)
    assert [group.tolist() for group in groups] == [[1, 3, 5], [7, 8]]
    assert groups_of([], 4) == []


# ---- the whole run ---------------------------------------------------------------------------------------------------


def write_example(folder: Path) -> dict[str, Any]:
    """Digits of which the first are mislabelled, and one stands there three times more; row i is `train-i`."""
    images, labels = digits()
    order = [*range(NUM_ROWS), *[60] * NUM_DOUBLES]
    given = [(labels[row] + 3) % 10 if row < NUM_WRONG else labels[row] for row in order]
    half, names = len(order) // 2, [f"train-{place}" for place in range(len(order))]
    for shard, part in enumerate((slice(0, half), slice(half, len(order)))):
        write_images(folder / "corpus" / f"{shard}.parquet", as_png(images[order][part]), given[part], names[part])
    save_network(train_network(images[order], given, epochs=20), folder / "model")
    return digit_config(folder) | {"kind": "memorize", "update": {"kind": "sgd"}, "rank": {"top_k": 4}}


def run_memorize(config: Path, store: Path, environment: dict[str, str]) -> Path:
    path = f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}".rstrip(":")
    command = [FINF, "memorize", str(config), "--store", str(store), "--actors", "1", "--json"]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout.splitlines()[-1])["run"])


def test_every_row_is_ranked_doubles_are_taken_together_and_what_is_lost_is_made_again(
    tmp_path: Path, finf_environment: dict[str, str], open_page: OpenPage
) -> None:
    table = write_example(tmp_path)
    config = tmp_path / "memory.toml"
    config.write_text(image_example.toml(table))
    run = run_memorize(config, tmp_path / "store", finf_environment)
    rows = storage.read_table(str(run / "memorized.parquet")).to_pylist()
    assert [row["rank"] for row in rows] == list(range(1, NUM_ROWS + NUM_DOUBLES + 1))
    influence = {row["document_id"]: row["self_influence"] for row in rows}
    assert list(influence.values()) == sorted(influence.values(), reverse=True)
    wrong = {f"train-{row}" for row in range(NUM_WRONG)}
    assert len(wrong & set(list(influence)[:NUM_WRONG])) > NUM_WRONG / 2

    slow = slow_norms(tmp_path, len(rows))
    assert [influence[f"train-{place}"] for place in range(len(rows))] == pytest.approx(slow, rel=1e-3, abs=1e-9)

    groups = storage.read_table(str(run / "groups.parquet")).to_pylist()
    doubles = {(line["shard"], line["row"]) for line in groups}
    names = {row["document_id"] for row in rows if (row["shard"], row["row"]) in doubles}
    assert names == {"train-60", *(f"train-{NUM_ROWS + number}" for number in range(NUM_DOUBLES))}
    report = json.loads((run / "report.json").read_text())
    [[_, count, double_labels, together, alone]] = report["tables"][1]["rows"]
    assert count == NUM_DOUBLES + 1
    assert double_labels == str(digits()[1][60])
    assert together == pytest.approx(count * alone, rel=1e-4)
    cards = [card for group in report["groups"] for found in group["lists"] for card in found["cards"]]
    assert len(report["groups"]) == 10
    assert all(card["picture"] for card in cards)
    assert "queries" not in report["inputs"]
    page = open_page(report)
    assert page.locator("img.picture").count() == len(cards)
    assert overflow(page) == 0

    before = (run / "memorized.parquet").read_bytes()
    [measured] = (tmp_path / "store" / "cache").glob("memory-*")
    units = sorted(measured.iterdir())
    kept = units[1].stat().st_mtime_ns
    for lost in (units[0], run / "memorized.parquet", run / "totals.json", run / "report.json"):
        lost.unlink()
    assert run_memorize(config, tmp_path / "store", finf_environment) == run
    assert (run / "memorized.parquet").read_bytes() == before
    assert units[1].stat().st_mtime_ns == kept


def slow_norms(folder: Path, num_rows: int) -> list[float]:
    """|∇l|² of each row, from autograd on a float64 network, one row at a time."""
    network = digit_network().double().eval()
    network.load_state_dict(load_file(folder / "model" / "model.safetensors"))
    rows = [
        row for shard in (0, 1) for row in storage.read_table(str(folder / "corpus" / f"{shard}.parquet")).to_pylist()
    ]
    images = digits()[0]
    found = []
    for place, row in enumerate(rows[:num_rows]):
        image = images[place if place < NUM_ROWS else 60]
        logits = network(torch.tensor(image.tolist(), dtype=torch.float64)[None, None] / 255)[0]
        nats = torch.logsumexp(logits, 0) - logits[row["label"]]
        gradients = torch.autograd.grad(nats, list(network.parameters()))
        found.append(sum(float((each**2).sum()) for each in gradients))
    return found


def test_texts_are_measured_too_and_their_doubles_are_found(tiny_checkpoint: Path, tmp_path: Path) -> None:
    texts = scan_example.corpus_texts(40)
    texts += [f"{texts[37]} and that is all", texts[37].upper()]
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), texts, 2)
    spec = ScanSpec(
        name="texts",
        kind="memorize",
        model=ModelSpec(path=str(tiny_checkpoint), context_tokens=48, overlap_tokens=8),
        corpus=CorpusSpec(path=corpus, id_column="id"),
        update=UpdateSpec(kind="sgd"),
    )
    job = resolve_inputs(spec, scan_example.run_options(str(tmp_path / "store")))
    scorer = ShardScorer(job)
    for unit in planned_units(job):
        scorer.measure_rows(unit)
    find_groups(job)
    for bundle in group_bundles(job).planned():
        scorer.measure_groups(bundle)
    rank_memorized(job)
    publish_shown(job)
    for bundle in shown_bundles(job).planned():
        scorer.explain(bundle)
    publish_report(job, [])
    rows = {row["document_id"]: row for row in storage.read_table(job.memorized_uri).to_pylist()}
    assert len(rows) == len(texts)
    groups = storage.read_table(job.groups_uri)
    assert groups["query_id"].to_pylist() == ["group 1"] * 3

    document = min(rows, key=lambda name: rows[name]["num_targets"])  # fits in one window
    text = texts[int(document.removeprefix("doc-"))]
    nats, squares, num_targets = slow_text(tiny_checkpoint, text)
    assert rows[document]["num_targets"] == num_targets
    assert rows[document]["loss_nats"] == pytest.approx(nats, rel=1e-4)
    assert rows[document]["self_influence"] == pytest.approx(squares / num_targets, rel=1e-3)
    report = json.loads(storage.read_bytes(job.file("report.json")))
    cards = report["groups"][0]["lists"][0]["cards"]
    assert [card["title"] for card in cards] == list(rows)[: len(cards)]
    assert cards[0]["text"] == texts[int(cards[0]["title"].removeprefix("doc-"))]


def slow_text(checkpoint: Path, text: str) -> tuple[float, float, int]:
    """Nats, |∇|² and targets of a text, by transformers alone in float64."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64)
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt")["input_ids"]
    logits = model(ids).logits[0]
    nats = sum(torch.logsumexp(logits[at], 0) - logits[at, ids[0, at + 1]] for at in range(ids.shape[1] - 1))
    gradients = torch.autograd.grad(nats, list(model.parameters()))
    return float(nats.detach()), sum(float((each**2).sum()) for each in gradients), ids.shape[1] - 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queries": {"path": "q.jsonl"}}, "asks no queries"),
        ({"update": {"kind": "adam", "learning_rate": 0.1}}, "takes no step"),
        ({"duplicates": {"shared_words": 0}}, "duplicates.shared_words"),
        ({"kind": "scan"}, "queries.path is missing"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    table = {"kind": "memorize", "name": "m", "model": {"path": "m"}, "corpus": {"path": "c"}} | changes
    with pytest.raises(InputError, match=said):
        parse_config(table, "x.toml")
