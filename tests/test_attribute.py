"""`finf attribute`: proponents and opponents, of images and of text, through the same pipeline as a scan."""

import base64
import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import image_example
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_example import NUM_PLANTED, NUM_TEST, digit_network, digits
from report_page import OpenPage
from safetensors.torch import load_file
from test_scan import run_finf
from test_top_k import with_row_ratios
from whole_run import run_job

from finf_core.errors import InputError
from finf_core.report.gallery import render_gallery
from finf_core.spec import RankSpec, ScanSpec
from finf_core.top_k import CANDIDATES, merge_top
from tasks.config import parse_config
from tasks.job import ScanJob
from tasks.purify import purify
from tasks.read_report import read_report

SCORE_TOLERANCE = 2e-5  # nats; float32 forward passes in other batches

Rows = dict[str, list[dict[str, Any]]]


def rows_of(job: ScanJob) -> Rows:
    found: Rows = defaultdict(list)
    for row in pq.read_table(job.file("top.parquet")).to_pylist():
        found[row["query_id"]].append(row)
    return found


def attribution_spec(config: dict[str, Any], **rank: Any) -> ScanSpec:
    return parse_config({**config, "kind": "attribute", "rank": {"top_k": 5, "opponents_k": 5} | rank}, "test")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return image_example.write_example(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def found(inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ScanJob:
    return run_job(attribution_spec(inputs), tmp_path_factory.mktemp("store")).job


def test_a_copy_of_a_query_has_ratio_one_and_is_the_first_by_control_z(inputs: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(run_job(attribution_spec(inputs, by="control_z"), tmp_path).job)
    for number in range(NUM_PLANTED):
        first = rows[f"test-{number}"][0]
        assert first["document_id"] == f"copy-{number}"
        assert first["mirror_ratio"] == pytest.approx(1.0, abs=0.01)


def test_rows_come_from_both_ends_in_order(found: ScanJob) -> None:
    for rows in rows_of(found).values():
        ratios = [row["row_ratio"] for row in rows]
        assert ratios == sorted(ratios, reverse=True)
        assert len(rows) == 10
        assert ratios[4] > 0 > ratios[-5]
    report = read_report(found.run_uri)
    for group in report["groups"]:
        assert [part["title"] for part in group["lists"]] == ["Proponents", "Opponents"]
        worst, *others = [card["value"] for card in group["lists"][1]["cards"]]
        assert worst == min([worst, *others])


def test_scores_are_the_changes_of_the_loss_that_plain_torch_gives(inputs: dict[str, Any], tmp_path: Path) -> None:
    """For the plain gradient step: taken here by autograd on the one image, with the step that the run reports."""
    config = inputs | {"update": {"kind": "sgd", "difference": "forward"}}
    job = run_job(attribution_spec(config), tmp_path).job
    images, labels = digits()
    features = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    targets = torch.tensor(labels)
    place_of = {f"train-{i}": NUM_TEST + i for i in range(len(labels) - NUM_TEST)}
    place_of |= {f"copy-{i}": i for i in range(NUM_PLANTED)}
    queries = {line["query_id"]: line for line in pq.read_table(job.file("queries.parquet")).to_pylist()}
    for number in (0, 7):
        network = digit_network().eval()
        network.load_state_dict(load_file(Path(inputs["model"]["path"]) / "model.safetensors"))
        rows = rows_of(job)[f"test-{number}"]
        places = [place_of[row["document_id"]] for row in rows]

        def nats(places: list[int], network: torch.nn.Module = network) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(network(features[places]), targets[places], reduction="none")

        before = nats(places).detach()
        nats([number]).sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += queries[f"test-{number}"]["step_size"] * parameter.grad
        scores = (nats(places).detach() - before).tolist()
        assert [row["score"] for row in rows] == pytest.approx(scores, abs=SCORE_TOLERANCE)


def test_images_as_arrays_give_what_encoded_ones_give(inputs: dict[str, Any], found: ScanJob, tmp_path: Path) -> None:
    arrays = image_example.write_example(tmp_path / "arrays", form="arrays")
    other = run_job(attribution_spec(arrays), tmp_path / "store").job
    numbers = [
        {query: [(row["document_id"], row["score"]) for row in rows] for query, rows in rows_of(job).items()}
        for job in (found, other)
    ]
    assert numbers[0] == numbers[1]


def test_a_group_of_items_is_one_query_whose_loss_is_their_mean(inputs: dict[str, Any], tmp_path: Path) -> None:
    table = pq.read_table(inputs["queries"]["path"])
    grouped = table.append_column("half", pa.array([f"half-{i % 2}" for i in range(len(table))]))
    pq.write_table(grouped, tmp_path / "grouped.parquet")
    config = inputs | {"queries": {"path": str(tmp_path / "grouped.parquet"), "group_column": "half"}}
    job = run_job(attribution_spec(config), tmp_path / "store").job
    single = run_job(attribution_spec(inputs), tmp_path / "store").job
    nats_of = [
        {line["query_id"]: line for line in pq.read_table(each.file("queries.parquet")).to_pylist()}
        for each in (job, single)
    ]
    for half in (0, 1):
        members = [nats_of[1][f"test-{i}"]["base_nats"] for i in range(half, NUM_TEST, 2)]
        assert nats_of[0][f"half-{half}"]["num_targets"] == len(members)
        assert nats_of[0][f"half-{half}"]["base_nats"] == pytest.approx(sum(members), rel=1e-5)
    group = read_report(job.run_uri)["groups"][0]
    assert (group["num_items"], len(group["pictures"])) == (NUM_TEST // 2, NUM_TEST // 2)


def test_text_has_proponents_and_opponents_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.corpus_texts(), num_shards=2)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, corpus, queries)
    rank = RankSpec(top_k=4, opponents_k=3, lexical_k=0)
    job = run_job(dataclasses.replace(spec, kind="attribute", rank=rank), tmp_path / "store").job
    report = read_report(job.run_uri)
    leak = next(group for group in report["groups"] if group["title"] == "0")
    assert leak["lists"][0]["cards"][0]["title"] == "doc-37"
    assert leak["lists"][0]["cards"][0]["text"]
    assert [len(part["cards"]) for part in leak["lists"]] == [4, 3]


@given(st.lists(st.floats(-2, 2), max_size=25), st.integers(1, 4), st.integers(0, 4))
def test_merging_keeps_the_k_least_as_well(values: list[float], top_k: int, opponents_k: int) -> None:
    rows = with_row_ratios({("q", "a", row): -9.0 for row in range(len(values))}, values)
    rank = RankSpec(top_k=top_k, mirror_k=1, opponents_k=opponents_k)
    merged = CANDIDATES.empty_table()
    for start in range(0, len(values), 6):
        merged = merge_top([merged, rows.slice(start, 6)], rank)
    best = sorted(range(len(values)), key=lambda row: (-values[row], row))
    least = sorted(range(len(values)), key=lambda row: (values[row], row))
    kept = {*best[:top_k], *least[:opponents_k], *range(min(1, len(values)))}
    assert set(merged["row"].to_pylist()) == kept


def test_a_run_without_verdicts_is_not_purified(found: ScanJob) -> None:
    with pytest.raises(InputError, match="a run of kind 'attribute' has no verdicts"):
        purify(found.run_uri, None)


def test_controls_and_other_kinds_are_refused(inputs: dict[str, Any]) -> None:
    queries = inputs["queries"] | {"controls": "x.parquet"}
    with pytest.raises(InputError, match=r"queries\.controls are for verdicts"):
        attribution_spec(inputs | {"queries": queries})
    with pytest.raises(InputError, match="kind = 'explain'; want one of"):
        parse_config(inputs | {"kind": "explain"}, "test")


def test_on_the_command_line_with_pictures_in_a_browser(
    inputs: dict[str, Any], tmp_path: Path, finf_environment: dict[str, str], open_page: OpenPage
) -> None:
    config = tmp_path / "attribute.toml"
    config.write_text(image_example.toml(inputs | {"kind": "attribute", "rank": {"top_k": 3, "opponents_k": 2}}))
    environment = finf_environment | {"PYTHONPATH": str(Path(__file__).parent)}
    wrong = run_finf("scan", str(config), "--store", str(tmp_path / "store"), environment=environment)
    assert wrong.returncode == 2
    assert "run: finf attribute" in wrong.stderr
    arguments = ("attribute", str(config), "--store", str(tmp_path / "store"), "--actors", "2", "--json")
    done = run_finf(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])["run"]
    report = read_report(run)
    page = open_page(report)
    assert page.locator("h1").inner_text() == f"Proponents and opponents of {NUM_TEST} queries"
    pictures = page.locator("img.picture")
    assert pictures.count() == NUM_TEST * (1 + 3 + 2)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth === 8)")
    images, _ = digits()
    shown = base64.b64decode(report["groups"][0]["pictures"][0])
    assert shown == image_example.encode_png(images[0])


def test_a_card_obeys_nobody(found: ScanJob, open_page: OpenPage) -> None:
    report = read_report(found.run_uri)
    script = "<script>document.title = 'owned'</script>\x1b[31m"
    group = report["groups"][0]
    group["title"] = group["text"] = script
    group["lists"][0]["cards"][0] |= {"title": script, "text": script, "shard": script, "source": script}
    page = open_page(report)
    assert "owned" not in page.title()
    assert page.locator("script").count() == 0
    assert "\x1b" not in render_gallery(report)
