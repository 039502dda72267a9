"""Where leaks lie: by shard, source and date."""

import dataclasses
import datetime
from pathlib import Path

import pyarrow as pa
import pytest
import scan_example
from test_shard_scorer import score_everything

from finf_core.errors import InputError
from finf_core.report.hits import count_places, hits_of
from finf_core.spec import ScanSpec
from tasks import storage
from tasks.publish_report import build_report
from tasks.resolve_inputs import find_inputs

COPIES = {11: ("forum", datetime.date(2026, 1, 2)), 50: ("forum", datetime.date(2026, 3, 4)), 90: ("wiki", None)}


@pytest.fixture
def spec(tiny_checkpoint: Path, tmp_path: Path) -> ScanSpec:
    """The leak stands in three rows; two shards with nested labels."""
    texts = scan_example.texts(96)
    for row in COPIES:
        texts[row] = scan_example.LEAK
    labels = [COPIES.get(row, ("books", datetime.date(2020, 1, 1))) for row in range(96)]
    for shard, rows in enumerate((range(48), range(48, 96))):
        meta = [{"source": labels[row][0], "day": labels[row][1]} for row in rows]
        table = pa.table({"text": [texts[row] for row in rows], "meta": meta})
        storage.publish_table(str(tmp_path / "corpus" / f"{shard}.parquet"), table)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    plain = scan_example.scan_spec(tiny_checkpoint, str(tmp_path / "corpus"), queries)
    named = dataclasses.replace(plain.corpus, id_column=None, source_column="meta.source", date_column="meta.day")
    return dataclasses.replace(plain, corpus=named)


def test_leaks_are_counted_by_shard_source_and_date_and_scores_do_not_depend_on_them(
    spec: ScanSpec, tmp_path: Path
) -> None:
    job = score_everything(spec, tmp_path / "store")
    places = build_report(job, [])["places"]
    shards = [str(tmp_path / "corpus" / f"{shard}.parquet") for shard in (0, 1)]
    assert places["shard"] == [
        {"name": shards[1], "num_rows": 48, "num_hits": 2, "num_queries": 1},
        {"name": shards[0], "num_rows": 48, "num_hits": 1, "num_queries": 1},
    ]
    assert {place["name"]: place["num_hits"] for place in places["source"]} == {"forum": 2, "wiki": 1}
    assert {place["name"]: place["num_hits"] for place in places["date"]} == {"2026-01-02": 1, "2026-03-04": 1}
    assert (places["shard_more"], places["source_more"], places["date_more"]) == (0, 0, 0)
    unnamed = dataclasses.replace(spec.corpus, source_column=None, date_column=None)
    other = dataclasses.replace(job, spec=dataclasses.replace(spec, corpus=unnamed))
    assert other.scores_fingerprint == job.scores_fingerprint
    assert other.evidence_fingerprint != job.evidence_fingerprint


def test_a_label_that_is_no_column_is_refused(spec: ScanSpec, tmp_path: Path) -> None:
    corpus = dataclasses.replace(spec.corpus, source_column="meta.origin")
    with pytest.raises(InputError, match=r"no column 'meta.origin' \(corpus.source_column\)"):
        find_inputs(dataclasses.replace(spec, corpus=corpus), scan_example.run_options(str(tmp_path)))


def test_a_row_that_leaks_to_two_queries_is_one_hit_of_two_queries_and_clean_queries_have_none() -> None:
    verdict = {"threshold": 0.5, "shared_from": 0.5}
    copy = {"shard": "a", "row": 1, "mirror_ratio": 0.9, "shared": None}
    words = {"shard": "b", "row": 2, "mirror_ratio": None, "shared": 0.5}
    weak = {"shard": "c", "row": 3, "mirror_ratio": 0.1, "shared": 0.1}
    queries = [
        {"query_id": "1", "leaked": True, "top": [weak, copy, words]},
        {"query_id": "2", "leaked": True, "top": [copy]},
        {"query_id": "3", "leaked": True, "top": [weak]},
        {"query_id": "4", "leaked": False, "top": [copy]},
    ]
    assert [hits_of(query, verdict).rows for query in queries] == [[copy, words], [copy], [weak], []]
    assert list(count_places(queries, verdict, "shard")) == [
        {"name": "a", "num_hits": 1, "num_queries": 2},
        {"name": "b", "num_hits": 1, "num_queries": 1},
        {"name": "c", "num_hits": 1, "num_queries": 1},
    ]
