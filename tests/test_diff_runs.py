"""Two runs side by side: `finf diff`."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_example import example_report

from tasks.diff_runs import describe_diff, diff_runs


def write_run(folder: Path, leaked: dict[str, bool], best_row: dict[str, int]) -> str:
    """A complete run whose report has these verdicts."""
    report = example_report(num_queries=len(leaked), num_leaked=0, rows_per_query=2)
    for query, (query_id, is_leaked) in zip(report["queries"], leaked.items(), strict=True):
        query |= {"query_id": query_id, "leaked": is_leaked}
        row = best_row.get(query_id, 0)
        query["top"][0] |= {"shard": "s", "row": row, "document_id": f"d{row}"}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report))
    return str(folder)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    before = write_run(
        tmp_path / "1", {"stays": True, "new": False, "gone": True, "moves": True, "old": True}, {"moves": 3}
    )
    after = write_run(
        tmp_path / "2",
        {"moves": True, "new": True, "gone": False, "stays": True, "added": True, "calm": False},
        {"moves": 4},
    )
    return before, after


def test_every_query_is_told_by_what_became_of_it(runs: tuple[str, str]) -> None:
    diff = diff_runs(*runs)
    assert diff.newly_leaked == ["new"]
    assert diff.no_longer_leaked == ["gone"]
    assert [(each.query_id, each.before, each.after) for each in diff.moved] == [("moves", "d3", "d4")]
    assert diff.only_before == ["old"]
    assert diff.only_after == ["added", "calm"]
    assert diff.only_after_leaked == ["added"]
    text = describe_diff(diff)
    assert "newly leaked: 1: new" in text
    assert "asked only now: 2: added (leaked), calm" in text


def test_a_run_does_not_differ_from_itself(runs: tuple[str, str]) -> None:
    diff = diff_runs(runs[0], runs[0])
    changes: list[Any] = [diff.newly_leaked, diff.no_longer_leaked, diff.moved, diff.only_before, diff.only_after]
    assert not any(changes)
