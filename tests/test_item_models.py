"""Networks that one's own code builds: weights that fit or are refused, frozen statistics, the example of the docs."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import image_example
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_example import FACTORY, digit_network, save_network
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_wine
from torch import nn
from whole_run import run_job

from finf_core.errors import CheckpointError, InputError
from finf_core.spec import CorpusSpec, ModelSpec
from tasks.config import parse_config
from tasks.load_model import digest_model, load_model

DOCS = (Path(__file__).parent.parent / "docs" / "MODELS.md").read_text()
IMAGES = CorpusSpec(path="x", image_column="image", image_mode="L", label_column="label")


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    torch.manual_seed(0)
    return ModelSpec(path=str(save_network(digit_network(), tmp_path / "model")), kind="classifier", factory=FACTORY)


def change_weights(spec: ModelSpec, change: Any) -> None:
    file = Path(spec.path) / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def test_weights_are_those_of_the_file_and_the_network_is_frozen(spec: ModelSpec) -> None:
    module = load_model(spec, IMAGES).adapter.module
    stored = load_file(Path(spec.path) / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("0.bias"), "'0.bias' is missing from the weights"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "'extra' is not in the network"),
        (lambda weights: weights.update({"0.bias": torch.zeros(9)}), r"'0.bias' has shape \(9,\), .* wants \(8,\)"),
        (lambda weights: weights["0.bias"].fill_(float("nan")), "'0.bias' holds NaN or infinity"),
        (lambda weights: weights.update({"0.bias": torch.zeros(8, dtype=torch.int64)}), "'0.bias' has dtype I64"),
    ],
    ids=["missing", "extra", "shape", "nan", "dtype"],
)
def test_weights_that_do_not_fit_are_refused_by_name(spec: ModelSpec, change: Any, reason: str) -> None:
    change_weights(spec, change)
    with pytest.raises(CheckpointError, match=reason):
        load_model(spec, IMAGES)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("no_such_package:build", "No module named 'no_such_package'"),
        ("image_example:no_such_function", "no_such_function"),
        ("image_example:digits", "gives a tuple, not a torch module"),
    ],
)
def test_a_factory_that_gives_no_network_is_named(spec: ModelSpec, factory: str, reason: str) -> None:
    wrong = ModelSpec(path=spec.path, kind="classifier", factory=factory)
    with pytest.raises(CheckpointError, match=reason):
        load_model(wrong, IMAGES)


@pytest.mark.parametrize("factory", ["image_example", "image_example:", "a b:c", "image_example:digits.__class__"])
def test_a_factory_is_the_name_of_a_function(factory: str) -> None:
    with pytest.raises(InputError, match=r"want package\.module:function"):
        ModelSpec(path="x", kind="classifier", factory=factory)


def test_a_digest_tells_other_weights_and_other_code(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest_model(spec)
    change_weights(spec, lambda weights: weights["0.bias"].add_(1.0))
    assert digest_model(spec) != before
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "own_networks.py"
    digests = []
    for size in (2, 3):
        source.write_text(f"from torch import nn\n\n\ndef build():\n    return nn.Linear({size}, 1)\n")
        sys.modules.pop("own_networks", None)
        digests.append(digest_model(ModelSpec(path=spec.path, kind="classifier", factory="own_networks:build")))
    assert digests[0] != digests[1]


def test_statistics_and_dropout_stay_as_they_were_through_a_whole_run(tmp_path: Path) -> None:
    """A statistic that moved with what it sees would make a row's loss depend on the rows before it."""
    config = image_example.write_example(tmp_path)
    run = run_job(parse_config({"kind": "attribute", **config}, "test"), tmp_path / "store")
    module = run.scorer.model.adapter.module
    stored = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, stored[name]), name
    assert {part.training for part in module.modules() if isinstance(part, nn.BatchNorm2d | nn.Dropout)} == {False}


def wrong_pairs() -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]]:
    classifier = {"kind": "classifier", "factory": "a:b"}
    images = {"image_column": "image", "label_column": "label"}
    return [
        ({}, images, {}, "model.kind = 'causal_lm' wants text or tokens"),
        (classifier, {}, {}, "model.kind = 'classifier' wants corpus.image_column"),
        (classifier, {"image_column": "image"}, {}, "corpus.label_column goes with"),
        ({"kind": "own", "factory": "a:b"}, images, {}, "wants corpus.columns"),
        ({"kind": "classifier"}, images, {}, "model.factory .* goes with"),
        ({"factory": "a:b"}, {}, {}, "model.factory .* goes with"),
        (classifier, images | {"columns": ["x"]}, {}, "give one of the two"),
        (classifier, images, {"target": "{label}"}, "no templates"),
        (
            classifier | {"images": {"mean": [0.1, 0.2, 0.3]}},
            images | {"image_mode": "L"},
            {},
            "want 1 number, or 1, as",
        ),
        ({}, {}, {"group_column": "x"}, "queries.group_column goes with"),
    ]


@pytest.mark.parametrize(("model", "corpus", "queries", "reason"), wrong_pairs())
def test_model_corpus_and_queries_must_speak_of_the_same(
    model: dict[str, Any], corpus: dict[str, Any], queries: dict[str, Any], reason: str
) -> None:
    parts = {key: {"path": "x"} | part for key, part in (("model", model), ("corpus", corpus), ("queries", queries))}
    with pytest.raises(InputError, match=reason):
        parse_config({"name": "x", **parts}, "test")


def test_a_network_that_reads_other_images_than_it_was_trained_on_is_refused(tmp_path: Path) -> None:
    config = image_example.write_example(tmp_path)
    config["model"]["images"] = {"mean": [5.0], "std": [0.01]}
    with pytest.raises(CheckpointError, match=r"model\.images .* not as in training"):
        run_job(parse_config(config, "test"), tmp_path / "store")


def test_a_label_that_is_no_class_of_the_network_is_named_by_its_row(tmp_path: Path) -> None:
    config = image_example.write_example(tmp_path)
    images, labels = image_example.digits()
    shard = tmp_path / "corpus" / "0.parquet"
    image_example.write_images(shard, image_example.as_png(images[:3]), [labels[0], labels[1], 10], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"0\.parquet: row 2: label 10, but the network knows 10 classes"):
        run_job(parse_config(config, "test"), tmp_path / "store")


def test_images_of_different_sizes_are_one_line_that_says_what_to_set(tmp_path: Path) -> None:
    config = image_example.write_example(tmp_path)
    images, labels = image_example.digits()
    mixed = image_example.as_png(images[:2]) + image_example.as_png(images[2:3, :6])
    image_example.write_images(tmp_path / "corpus" / "0.parquet", mixed, labels[:3], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"images of different sizes, .* set model\.images\.size"):
        run_job(parse_config(config, "test"), tmp_path / "store")


def test_the_example_of_the_docs_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wines asked about are in the corpus: each loses by itself what it loses as a query."""
    [code] = re.findall(r"```python\n(# wine\.py\n.*?)```", DOCS, re.DOTALL)
    [config] = re.findall(r"```toml\n(kind = \"attribute\"\nname = \"wine\".*?)```", DOCS, re.DOTALL)
    (tmp_path / "wine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from wine import Wine  # type: ignore[import-not-found]

    features, grapes = load_wine(return_X_y=True)
    features = ((features - features.mean(0)) / features.std(0)).astype(np.float32)
    table = pa.table({"features": features.tolist(), "grape": grapes})
    pq.write_table(table, "wine.parquet", row_group_size=50)
    asked = [0, 70, 150]
    pq.write_table(table.take(asked), "new-wines.parquet")
    torch.manual_seed(0)
    adapter = Wine()
    optimizer = torch.optim.Adam(adapter.module.parameters(), 0.02, weight_decay=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        adapter.loss(adapter.collate(table.to_pylist())).sum_nats.mean().backward()
        optimizer.step()
    save_network(adapter.module, Path("weights"))
    job, scorer = run_job(parse_config(tomllib.loads(config), "docs"), tmp_path / "store")
    assert not scorer.model.adapter.module.training
    top = pq.read_table(job.file("top.parquet")).to_pylist()
    assert {sum(row["query_id"] == query_id for row in top) for query_id in "012"} == {10}
    everything = parse_config(tomllib.loads(config.replace("top_k = 5", "top_k = 200")), "docs")
    job = run_job(everything, tmp_path / "store").job
    ratio_of = {
        (row["query_id"], row["row"]): row["row_ratio"] for row in pq.read_table(job.file("top.parquet")).to_pylist()
    }
    for query_id, place in zip("012", asked, strict=True):
        assert ratio_of[query_id, place] == pytest.approx(1.0, abs=0.02)
        same, other = ([ratio_of[query_id, row] for row in np.flatnonzero(is_same)] for is_same in split(grapes, place))
        assert np.mean(same) > np.mean(other)


def split(grapes: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    return grapes == grapes[place], grapes != grapes[place]
