"""Words in a whole scan: what query and row share is kept, listed and judged, whatever the model makes of it."""

import dataclasses
from pathlib import Path

import pytest
import scan_example
from test_shard_scorer import score_everything

from finf_core.spec import RankSpec, ScanSpec, StrategySpec
from tasks import storage
from tasks.job import ScanJob

COPIES = (11, 50, 90)
ROWS = RankSpec(top_k=1, mirror_k=1)
KINDS = pytest.mark.parametrize("kind", ["every_query", "one_pass", "grouped"])


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    """One query stands in three rows, one is of the same words in another order, two are clean."""
    folder = tmp_path_factory.mktemp("lexical")
    rows = scan_example.texts(96)
    for row in COPIES:
        rows[row] = f"{rows[row]}. {scan_example.LEAK.title()}!"
    corpus = scan_example.write_shards(str(folder / "corpus"), rows, num_shards=2)
    shuffled = " ".join(sorted(scan_example.LEAK.split()))
    items = [("", scan_example.LEAK), ("", shuffled), *(("question: ", text) for text in scan_example.texts(2, seed=1))]
    queries = scan_example.write_queries(str(folder / "queries.parquet"), items)
    plain = scan_example.scan_spec(tiny_checkpoint, corpus, queries)
    return dataclasses.replace(plain, rank=ROWS)


def listed(job: ScanJob, query_id: str) -> dict[str, dict[str, float]]:
    lines = storage.read_table(job.file("top.parquet")).to_pylist()
    return {line["document_id"]: line for line in lines if line["query_id"] == query_id}


@KINDS
def test_every_copy_is_listed_though_fewer_rows_are_kept_by_their_scores(
    spec: ScanSpec, tmp_path: Path, kind: str
) -> None:
    job = score_everything(dataclasses.replace(spec, strategy=StrategySpec(kind=kind, rescored_rows=1)), tmp_path)
    found = listed(job, "0")
    assert [found[f"doc-{row}"]["shared"] for row in COPIES] == [1.0, 1.0, 1.0]
    assert all(line["shared"] < 0.5 for name, line in found.items() if name not in {f"doc-{row}" for row in COPIES})
    shuffled = listed(job, "1")
    assert {f"doc-{row}" for row in COPIES} <= set(shuffled)  # by BM25
    assert all(line["shared"] == 0 for line in shuffled.values())
    outcomes = storage.read_table(job.file("queries.parquet")).select(["max_shared", "outcome"]).to_pylist()
    assert outcomes[0] == {"max_shared": 1.0, "outcome": "copied"}
    assert [line["outcome"] for line in outcomes[2:]] == ["neither", "neither"]


def test_without_words_there_are_only_scores(spec: ScanSpec, tmp_path: Path) -> None:
    job = score_everything(dataclasses.replace(spec, rank=dataclasses.replace(ROWS, lexical_k=0)), tmp_path)
    found = listed(job, "0")
    assert len(found) <= 2
    assert all(line["shared"] is line["bm25"] is None for line in found.values())


def test_rows_of_token_ids_are_compared_by_the_words_that_they_stand_for(spec: ScanSpec, tmp_path: Path) -> None:
    corpus = scan_example.write_token_ids(str(tmp_path / "tokens.parquet"), spec.model.path)
    job = score_everything(dataclasses.replace(spec, corpus=corpus), tmp_path)
    assert listed(job, "0")["8"]["shared"] == 1.0
