"""Control queries through a whole scan: scored like queries, never judged, and what queries are judged by."""

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
import scan_example
from test_shard_scorer import score_everything

from finf_core.errors import InputError
from finf_core.spec import ScanSpec, StrategySpec, VerdictSpec
from tasks import storage
from tasks.publish_report import build_report
from tasks.queries import load_queries

NUM_CLEAN, NUM_CONTROLS = 3, 39


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    """A leaked query, clean ones and controls like them."""
    folder = tmp_path_factory.mktemp("inputs")
    corpus = scan_example.write_shards(str(folder / "corpus"), scan_example.corpus_texts(), num_shards=2)
    items = [("question: ", text) for text in scan_example.texts(NUM_CLEAN + NUM_CONTROLS, seed=1)]
    queries = scan_example.write_queries(str(folder / "q.parquet"), [("", scan_example.LEAK), *items[:NUM_CLEAN]])
    controls = scan_example.write_queries(str(folder / "c.parquet"), items[NUM_CLEAN:])
    plain = scan_example.scan_spec(tiny_checkpoint, corpus, queries)
    asked = dataclasses.replace(plain.queries, controls=controls)
    return dataclasses.replace(plain, queries=asked, verdict=VerdictSpec(fdr=0.1))


@pytest.mark.parametrize("kind", ["every_query", "one_pass"])
def test_a_leak_stands_out_from_all_controls_and_clean_queries_do_not(
    spec: ScanSpec, tmp_path: Path, kind: str
) -> None:
    job = score_everything(dataclasses.replace(spec, strategy=StrategySpec(kind=kind)), tmp_path)
    lines = storage.read_table(job.file("queries.parquet")).to_pylist()
    asked = [line for line in lines if not line["is_control"]]
    controls = [line for line in lines if line["is_control"]]
    assert [line["query_id"] for line in asked] == ["0", "1", "2", "3"]
    assert [line["query_id"] for line in controls] == [f"control:{index}" for index in range(NUM_CONTROLS)]
    assert asked[0]["p_value"] == pytest.approx(1 / (1 + NUM_CONTROLS))
    assert asked[0]["q_value"] == pytest.approx(4 / (1 + NUM_CONTROLS))
    assert [line["leaked"] for line in asked] == [True, False, False, False]
    assert all(line["leaked"] is line["p_value"] is line["q_value"] is None for line in controls)
    beyond = sum(line["statistic"] >= asked[1]["statistic"] for line in controls)
    assert asked[1]["p_value"] == pytest.approx((1 + beyond) / (1 + NUM_CONTROLS))

    report = build_report(job, [])
    assert report["summary"]["num_queries"] == 1 + NUM_CLEAN
    assert report["summary"]["num_controls"] == NUM_CONTROLS
    assert [query["query_id"] for query in report["queries"]] == ["0", "1", "2", "3"]
    assert len(report["controls"]) == NUM_CONTROLS
    assert "q-value is at most 0.1" in report["verdict"]["rule"]


def test_another_rate_is_another_verdict_on_the_same_scores(spec: ScanSpec, tmp_path: Path) -> None:
    strict = dataclasses.replace(spec, verdict=VerdictSpec(fdr=0.01, copied_from=2.0, shared_from=2.0))
    jobs = [score_everything(each, tmp_path) for each in (spec, strict)]
    assert jobs[0].scores_uri == jobs[1].scores_uri
    leaked = [storage.read_table(job.file("queries.parquet"))["leaked"].to_pylist()[0] for job in jobs]
    assert leaked == [True, False]  # 40 controls cannot tell one query in four at 1 %


def test_a_control_that_is_a_query_is_refused(spec: ScanSpec) -> None:
    with pytest.raises(InputError, match=r"'control:0' is the same item as '0'"):
        load_queries(dataclasses.replace(spec.queries, controls=spec.queries.path))


def test_controls_that_are_the_same_item_twice_or_share_an_id_with_a_query_are_refused(
    spec: ScanSpec, tmp_path: Path
) -> None:
    twice = scan_example.write_queries(str(tmp_path / "twice.parquet"), [("", "red dog"), ("", "red dog")])
    with pytest.raises(InputError, match=r"'control:1' is the same item as 'control:0'"):
        load_queries(dataclasses.replace(spec.queries, controls=twice))
    named = str(tmp_path / "named.parquet")
    storage.publish_table(named, pa.table({"prompt": [""], "answer": ["blue cat"], "id": ["control:0"]}))
    one = str(tmp_path / "one.parquet")
    storage.publish_table(one, pa.table({"prompt": [""], "answer": ["red dog"], "id": ["0"]}))
    with pytest.raises(InputError, match="rename the query"):
        load_queries(dataclasses.replace(spec.queries, path=named, controls=one, id_column="id"))
