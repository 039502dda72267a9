"""Documents longer than the model's context, and documents stored as several rows."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
import torch
import torch.nn.functional as F
from test_shard_scorer import RATIO_TOLERANCE, score_everything

from finf_core.errors import InputError
from finf_core.losses import IGNORE_INDEX
from finf_core.spec import CorpusSpec
from finf_core.windows import Window
from tasks.checkpoint import load_language_model
from tasks.corpus import Shard, plan_units, read_unit, shards_from_table
from tasks.encode import encode_rows
from tasks.job import ScanJob
from tasks.publish_report import publish_report
from tasks.purify import purify
from tasks.queries import read_queries
from tasks.resolve_inputs import read_job
from tasks.storage import read_table
from tasks.update_store import read_update
from tasks.whole_documents import rest_of_documents

LEAK, WORDS = scan_example.LEAK, " ".join(scan_example.WORDS)
LONG = f"{WORDS[:52]} {LEAK} {WORDS}"  # the leak begins in the first window of 48 tokens and ends in the second
LONG_ROW = 5


def target_nats(model: torch.nn.Module, windows: list[Window]) -> list[float]:
    """Of every target, window after window, by `transformers` alone."""
    found: list[float] = []
    for window in windows:
        with torch.no_grad():
            logits_TV = model(torch.from_numpy(window.input_ids)[None]).logits[0].double()
        nats_T = F.cross_entropy(logits_TV, torch.from_numpy(window.labels), reduction="none")
        found += nats_T[torch.from_numpy(window.labels) != IGNORE_INDEX].tolist()
    return found


def best_run(changes: list[float], length: int) -> tuple[int, float]:
    """Where the run of most nats starts, and how many."""
    sums = [sum(changes[start : start + length]) for start in range(len(changes) - length + 1)]
    return int(np.argmax(sums)), max(sums)


def test_a_copy_across_the_windows_of_a_long_row_is_one_line_with_its_whole_span(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    texts = scan_example.texts(16)
    texts[LONG_ROW] = LONG
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), texts, num_shards=1)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, corpus, queries, kind="sgd", difference="forward")
    job = score_everything(spec, tmp_path / "store")
    top = [row for row in read_table(job.file("top.parquet")).to_pylist() if row["query_id"] == "0"]
    assert [row["row"] for row in top].count(LONG_ROW) == 1
    [found] = [row for row in top if row["row"] == LONG_ROW]

    model = load_language_model(spec.model)
    update = read_update(job.updates_uri, read_queries(job.queries_uri)[0].digest)
    [windows] = encode_rows(model, spec.model, [LONG])
    before = target_nats(model.adapter.model, windows)
    for name, delta in update.deltas.items():
        model.adapter.module.get_parameter(name).data += delta
    after = target_nats(model.adapter.model, windows)
    start, nats = best_run([b - a for a, b in zip(before, after, strict=True)], update.num_targets)
    border = int((windows[0].labels != IGNORE_INDEX).sum())
    assert start + 5 < border < start + update.num_targets - 5  # the span lies in both windows
    assert found["mirror_ratio"] == pytest.approx(nats / (update.num_targets * update.moved_nats), abs=RATIO_TOLERANCE)
    assert found["mirror_ratio"] > 0.5
    assert found["num_targets"] == len(before)


# ---- documents of several rows ---------------------------------------------------------------------------------------

DOCUMENT = {("a.parquet", 36), ("a.parquet", 37), ("a.parquet", 38), ("b.parquet", 2), ("b.parquet", 40)}


def write(path: Path, texts: list[str], ids: list[int | None]) -> None:
    rows = [{"meta": {"doc": name, "text": text}} for name, text in zip(ids, texts, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=8)


@pytest.fixture(scope="module")
def scan(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], str]:
    """A finished run over two shards; row 37 of the first one leaked, a row of `DOCUMENT`. Some ids are null."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "corpus").mkdir()
    texts = scan_example.corpus_texts()
    write(folder / "corpus" / "a.parquet", texts[:48], [row // 3 for row in range(48)])
    ids = [12 if row in (2, 40) else None if row < 9 else 100 + row for row in range(48)]
    write(folder / "corpus" / "b.parquet", texts[48:], ids)
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    spec = scan_example.scan_spec(tiny_checkpoint, "", queries, kind="sgd", difference="forward")

    def scan_with_ids(id_column: str | None) -> str:
        corpus = CorpusSpec(path=str(folder / "corpus"), text_column="meta.text", id_column=id_column)
        job = score_everything(dataclasses.replace(spec, corpus=corpus), folder / "store")
        publish_report(job, [])
        return job.run_uri

    return scan_with_ids


def places(lines: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(Path(line["shard"]).name, line["row"]) for line in lines}


def test_purify_removes_the_leaked_row_or_all_rows_of_its_document(scan: Callable[..., str], tmp_path: Path) -> None:
    run = scan("meta.doc")
    assert places(purify(run, None).removed) == {("a.parquet", 37)}
    found = purify(run, str(tmp_path / "clean"), whole_documents=True)
    assert places(found.removed) == DOCUMENT
    assert found.num_removed == len(DOCUMENT)
    for name in ("a.parquet", "b.parquet"):
        [before] = [s for s in Path(found.removed[0]["shard"]).parent.iterdir() if s.name == name]
        kept = [r for i, r in enumerate(pq.read_table(before).to_pylist()) if (name, i) not in DOCUMENT]
        assert pq.read_table(tmp_path / "clean" / name).to_pylist() == kept
        assert 12 not in {row["meta"]["doc"] for row in kept}
    removed = pq.read_table(tmp_path / "clean" / "removed.parquet").to_pylist()
    assert [(row["row"], row["rank"], row["reason"]) for row in removed[:3]] == [
        (36, None, "another row of that document"),
        (37, 1, "copy"),
        (38, None, "another row of that document"),
    ]
    assert (
        "every other row of their documents" in json.loads((tmp_path / "clean" / "manifest.json").read_text())["rule"]
    )


def test_rows_without_an_id_are_documents_of_their_own(scan: Callable[..., str]) -> None:
    job, shards = job_and_shards(scan("meta.doc"))
    line = {"shard": shards[1].uri, "row": 0, "document_id": "", "query_id": "0"}
    assert rest_of_documents(job, shards, [line]) == []
    unit = list(plan_units(shards))[1]
    [*rows] = next(read_unit(unit, job.spec.corpus))
    assert [row.document_id for row in rows[:4]] == ["", "", "12", ""]


def test_whole_documents_want_ids(scan: Callable[..., str]) -> None:
    with pytest.raises(InputError, match=r"known by corpus\.id_column"):
        purify(scan(None), None, whole_documents=True)


def job_and_shards(run_uri: str) -> tuple[ScanJob, list[Shard]]:
    job = read_job(run_uri)
    return job, list(shards_from_table(read_table(job.shards_uri)))
