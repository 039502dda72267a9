"""What the report shows of a row: the part that matters, shared words, and every token's own ratio."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scan_example
from test_shard_scorer import score_everything

from finf_core.alignment import SharedSpan
from finf_core.spec import ScanSpec, StrategySpec
from tasks import report_queries
from tasks.encode import RowTokens, ShownTokens
from tasks.explain import MARGIN, MOST_CHARACTERS, Part, explain_part, part_to_show
from tasks.job import ScanJob
from tasks.publish_report import build_report
from tasks.shown_rows import ROWS_A_QUERY

BEFORE = " ".join(f"before{index}" for index in range(400)) + " "


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ScanSpec:
    """A query that stands in a long row, and three clean ones."""
    folder = tmp_path_factory.mktemp("explain")
    rows = scan_example.corpus_texts()
    rows[37] = f"{BEFORE}{scan_example.LEAK}. And more."
    corpus = scan_example.write_shards(str(folder / "corpus"), rows, num_shards=2)
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    return scan_example.scan_spec(tiny_checkpoint, corpus, queries)


@pytest.fixture(scope="module")
def job(spec: ScanSpec, tmp_path_factory: pytest.TempPathFactory) -> ScanJob:
    return score_everything(spec, tmp_path_factory.mktemp("store"))


def top_of(job: ScanJob, query: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = build_report(job, [])["queries"][query]["top"]
    return rows


@pytest.mark.parametrize("kind", ["every_query", "one_pass"])
def test_the_copy_in_a_long_row_is_shown_with_its_words_and_its_tokens(
    spec: ScanSpec, tmp_path: Path, kind: str
) -> None:
    job = score_everything(dataclasses.replace(spec, strategy=StrategySpec(kind=kind)), tmp_path)
    [row] = [row for row in top_of(job, 0) if row["document_id"] == "doc-37"]
    shown = row["evidence"]
    whole = f"{BEFORE}{scan_example.LEAK}. And more."
    assert shown["num_characters"] == len(whole)
    assert whole[shown["first_character"] :].startswith(shown["text"])
    assert [[scan_example.LEAK[a:b], shown["text"][c:d]] for a, b, c, d in shown["spans"]] == [[scan_example.LEAK] * 2]
    ends, ratios = shown["token_ends"], shown["token_ratios"]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(shown["text"])
    start = shown["text"].index(scan_example.LEAK)
    of_copy = [ratio for end, ratio in zip(ends, ratios, strict=True) if start < end <= start + len(scan_example.LEAK)]
    assert np.mean(of_copy) == pytest.approx(row["mirror_ratio"], abs=0.1)
    others = [ratio for end, ratio in zip(ends, ratios, strict=True) if end <= start]
    assert abs(np.mean(others)) < 0.2 < np.mean(of_copy)


def test_all_tokens_of_a_row_together_are_its_row_ratio(job: ScanJob) -> None:
    rows = [row for query in range(4) for row in top_of(job, query) if row["evidence"]]
    whole = [row for row in rows if row["evidence"]["num_characters"] <= MOST_CHARACTERS]
    assert len(whole) >= 8
    for row in whole:
        ratios = [ratio for ratio in row["evidence"]["token_ratios"] if ratio is not None]
        assert len(ratios) == row["num_targets"]
        assert np.mean(ratios) == pytest.approx(row["row_ratio"], abs=2e-3)


def test_a_query_shows_its_first_rows_and_the_rest_are_listed(job: ScanJob) -> None:
    for query in range(4):
        has_evidence = [row["evidence"] is not None for row in top_of(job, query)]
        assert has_evidence[:ROWS_A_QUERY] == [True] * ROWS_A_QUERY
        assert not all(has_evidence)


def test_in_a_large_report_only_first_rows_and_those_shown_have_texts(
    job: ScanJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(row["text_excerpt"] for row in top_of(job, 1))
    monkeypatch.setattr(report_queries, "MOST_EXCERPTS", 10)
    rows = top_of(job, 1)
    assert [row["text_excerpt"] is not None for row in rows] == [row["evidence"] is not None for row in rows]
    assert any(row["text_excerpt"] is None for row in rows)


def test_rows_of_token_ids_are_shown_as_what_the_ids_stand_for(spec: ScanSpec, tmp_path: Path) -> None:
    corpus = scan_example.write_token_ids(str(tmp_path / "tokens.parquet"), spec.model.path)
    job = score_everything(dataclasses.replace(spec, corpus=corpus), tmp_path)
    shown = top_of(job, 0)[0]["evidence"]
    assert scan_example.LEAK in shown["text"]
    assert shown["token_ends"][-1] == len(shown["text"])
    assert len(shown["spans"]) == 1


def test_the_part_that_matters_is_shown_with_a_margin_and_never_past_the_end() -> None:
    assert part_to_show(Part(10, 20), 100) == (0, 100)
    assert part_to_show(Part(5000, 5100), 10_000) == (5000 - MARGIN, 5000 - MARGIN + MOST_CHARACTERS)
    assert part_to_show(Part(9990, 10_000), 10_000) == (10_000 - MOST_CHARACTERS, 10_000)


def test_spans_and_tokens_are_cut_at_the_ends_of_the_part() -> None:
    row = ShownTokens("abcdefghij", RowTokens(np.arange(5)), np.array([0, 2, 4, 8, 10]))
    ratio_T = np.array([np.nan, 0.1, 0.2, 0.3, np.inf])
    spans = [SharedSpan(0, 2, 0, 2), SharedSpan(4, 9, 4, 9)]
    found = explain_part(row, ratio_T, spans, Part(3, 9))
    assert found["text"] == "defghi"
    assert found["spans"] == [[4, 9, 1, 6]]
    assert found["token_ends"] == [1, 5, 6]
    assert found["token_ratios"] == [pytest.approx(0.2), pytest.approx(0.3), None]
    assert found["first_character"] == 3
