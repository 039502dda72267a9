"""The corpus without the rows that leaked: `finf purify`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
from report_example import example_report
from test_shard_scorer import score_everything

from finf_core.errors import InputError
from tasks import storage
from tasks.publish_report import publish_report
from tasks.purify import describe_purified, lines_to_remove, new_names, purify

LEAK_ROW = 37  # of `scan_example.corpus_texts`


@pytest.fixture(scope="module")
def scanned(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A finished run and the folder of its corpus: three shards, the leak in the second; a column and metadata more."""
    folder = tmp_path_factory.mktemp("purify")
    corpus = scan_example.write_shards(str(folder / "corpus"), scan_example.corpus_texts(), num_shards=3)
    for shard in (folder / "corpus").iterdir():
        table = pq.read_table(shard).append_column(
            "length", pa.array(range(pq.read_metadata(shard).num_rows), pa.int8())
        )
        pq.write_table(table.replace_schema_metadata({"made by": "me"}), shard, row_group_size=8, compression="zstd")
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    job = score_everything(scan_example.scan_spec(tiny_checkpoint, corpus, queries), folder / "store")
    publish_report(job, [])
    return job.run_uri, folder / "corpus"


def test_a_dry_run_names_the_leaked_row_and_writes_nothing(scanned: tuple[str, Path]) -> None:
    found = purify(scanned[0], None)
    assert (found.num_rows, found.num_removed, found.num_queries) == (96, 1, 1)
    [line] = found.removed
    assert (line["document_id"], line["query_id"], line["reason"]) == (f"doc-{LEAK_ROW}", "0", "copy")
    text = describe_purified(found)
    assert f"row {LEAK_ROW - 32} (doc-{LEAK_ROW}): copy, query 0" in text
    assert "nothing was written" in text


def test_new_shards_hold_all_other_rows_in_order_and_all_else_stays(scanned: tuple[str, Path], tmp_path: Path) -> None:
    run, corpus = scanned
    found = purify(run, str(tmp_path / "clean"))
    before, after = (
        {path.name: pq.read_table(path) for path in sorted(folder.glob("shard-*.parquet"))}
        for folder in (corpus, tmp_path / "clean")
    )
    assert list(after) == list(before)
    for name, table in before.items():
        kept = [row for row in table.to_pylist() if row["id"] != f"doc-{LEAK_ROW}"]
        assert after[name].to_pylist() == kept
        assert after[name].schema.equals(table.schema, check_metadata=True)
        assert found.shards[name] == {"before": len(table), "after": len(kept)}
    changed = {
        path.name for path in corpus.iterdir() if path.read_bytes() != (tmp_path / "clean" / path.name).read_bytes()
    }
    assert changed == {"shard-001.parquet"}
    metadata = pq.read_metadata(tmp_path / "clean" / "shard-001.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [7, 8, 8, 8]
    assert metadata.row_group(0).column(0).compression == "ZSTD"

    manifest = json.loads((tmp_path / "clean" / "manifest.json").read_text())
    assert (manifest["run"], manifest["num_removed"], manifest["num_rows"]) == (run, 1, 96)
    assert pq.read_table(tmp_path / "clean" / "removed.parquet")["row"].to_pylist() == [LEAK_ROW - 32]


def test_a_folder_that_holds_something_is_not_written_into(scanned: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already"):
        purify(scanned[0], str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_shard_that_changed_since_the_scan_is_not_cut_by_old_row_numbers(
    scanned: tuple[str, Path], tmp_path: Path
) -> None:
    shard = scanned[1] / "shard-001.parquet"
    data = shard.read_bytes()
    try:
        pq.write_table(pq.read_table(shard).slice(1), shard, row_group_size=8)
        with pytest.raises(InputError, match=r"shard-001\.parquet: is no longer what was scanned"):
            purify(scanned[0], str(tmp_path / "clean"))
    finally:
        shard.write_bytes(data)
    assert not storage.list_names(str(tmp_path / "clean"))


def test_shards_keep_their_place_below_their_common_folder_and_none_leaves_it() -> None:
    names = new_names(["s3://bucket/corpus/a/x.parquet", "s3://bucket/corpus/b/c/y.parquet"])
    assert list(names.values()) == ["a/x.parquet", "b/c/y.parquet"]
    assert list(new_names(["/data/x.parquet"]).values()) == ["x.parquet"]
    with pytest.raises(InputError, match="rename the shard"):
        new_names(["s3://bucket/corpus/a.parquet", "s3://bucket/corpus/../../../b.parquet"])


def test_copies_go_or_else_the_best_row_and_clean_queries_cost_nothing() -> None:
    report = example_report(num_queries=3, num_leaked=0, rows_per_query=4)
    ratios = {0: [0.1, 0.9, 0.6, 0.2], 1: [0.2, 0.1, 0.0, 0.0], 2: [0.3, 0.9, 0.0, 0.0]}
    for index, query in enumerate(report["queries"]):
        query["leaked"] = index < 2
        for row, ratio in zip(query["top"], ratios[index], strict=True):
            row["mirror_ratio"] = ratio
    lines = list(lines_to_remove(report))
    assert [(line["query_id"], line["rank"], line["reason"]) for line in lines] == [
        ("HumanEval/0", 2, "copy"),
        ("HumanEval/0", 3, "copy"),
        ("HumanEval/1", 1, "best row of a leaked query"),
    ]
