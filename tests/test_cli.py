"""The command line in this process: exit codes, one-line errors, and one JSON object on the last line."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import scan_example
from test_shard_scorer import score_everything

from flows.cli import main
from tasks import storage
from tasks.config import load_config
from tasks.publish_report import publish_report


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `finf ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["finf", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.fixture
def finished_run(tiny_checkpoint: Path, tmp_path: Path) -> str:
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.corpus_texts(), num_shards=2)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    job = score_everything(scan_example.scan_spec(tiny_checkpoint, corpus, queries), tmp_path / "store")
    publish_report(job, [{"stage": "score shards", "seconds": 1.5, "cached": False}])
    return job.run_uri


def test_init_writes_a_config_and_never_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "leak.toml"
    assert run(monkeypatch, "init", "scan", str(path), "--json") == 0
    assert last_json(capsys) == {"config": str(path)}
    assert load_config(path).kind == "scan"
    assert run(monkeypatch, "init", "scan", str(path)) == 2
    assert run(monkeypatch, "init", "scam", str(tmp_path / "other.toml")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("finf: ") for line in lines] == [True, True]
    assert "leak.toml: exists already" in lines[0]


def test_wrong_usage_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "scan") == 2
    assert run(monkeypatch, "scan", "x.toml", "--actors", "0") == 2
    assert run(monkeypatch, "scan", str(tmp_path / "nowhere.toml")) == 2
    assert run(monkeypatch, "report", str(tmp_path)) == 2
    assert run(monkeypatch, "status", str(tmp_path)) == 2


def test_a_report_is_written_anew_and_summed_up(
    finished_run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(storage.join(finished_run, "report.html"))
    before = page.read_text()
    page.unlink()
    assert run(monkeypatch, "report", finished_run, "--json") == 0
    summary = last_json(capsys)
    assert (summary["run"], summary["num_leaked"], summary["num_queries"], summary["seconds"]) == (
        finished_run,
        1,
        4,
        1.5,
    )
    assert page.read_text() == before
    assert scan_example.LEAK in re.sub("<[^>]*>", "", before)  # marks may cut it


def test_status_counts_what_is_in_the_store(
    finished_run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(finished_run) / "report.json").unlink()
    next((Path(finished_run).parent / "cache").glob("scores-*/*.parquet")).unlink()
    assert run(monkeypatch, "status", finished_run, "--json") == 0
    status = last_json(capsys)
    assert not status["complete"]
    assert (status["queries_solved"], status["num_queries"], status["rows_scored"], status["num_rows"]) == (
        4,
        4,
        48,
        96,
    )


def test_a_plan_is_printed_as_json(
    finished_run: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = tmp_path / "scan.toml"
    config.write_text(
        f'name = "p"\n[model]\npath = "{tiny_checkpoint}"\n[corpus]\npath = "{tmp_path}/corpus"\n'
        f'[queries]\npath = "{tmp_path}/queries.parquet"\ntarget = "{{answer}}"\n'
    )
    assert run(monkeypatch, "plan", str(config), "--json", "--price-per-hour", "3.6") == 0
    plan = last_json(capsys)
    assert (plan["num_rows"], plan["num_queries"], plan["picked"]) == (96, 4, "every_query")
    found = {strategy["kind"]: strategy for strategy in plan["strategies"]}
    assert found.keys() == {"every_query", "grouped", "one_pass"}
    assert found["every_query"]["forward_equivalents"] == 5
    for strategy in found.values():
        assert strategy["price"] == pytest.approx(strategy["seconds"] / 1000)
        assert strategy["flops"] == pytest.approx(strategy["forward_equivalents"] * found["every_query"]["flops"] / 5)


def test_a_strategy_on_the_command_line_replaces_the_config_s(
    finished_run: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = tmp_path / "scan.toml"
    config.write_text(
        f'name = "p"\n[model]\npath = "{tiny_checkpoint}"\n[corpus]\npath = "{tmp_path}/corpus"\n'
        f'[queries]\npath = "{tmp_path}/queries.parquet"\ntarget = "{{answer}}"\n[strategy]\nkind = "grouped"\n'
    )
    assert run(monkeypatch, "plan", str(config)) == 0
    assert "picked: grouped (asked for)" in capsys.readouterr().out
    assert run(monkeypatch, "plan", str(config), "--strategy", "one_pass") == 0
    text = capsys.readouterr().out
    assert "picked: one_pass (asked for)" in text
    assert "* one_pass" in text
    assert run(monkeypatch, "plan", str(config), "--strategy", "guess") == 2
    assert "strategy.kind" in capsys.readouterr().err


def test_purify_names_the_leaked_row_and_writes_only_where_it_is_told_to(
    finished_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "purify", finished_run, "--json") == 0
    assert [line["document_id"] for line in last_json(capsys)["removed"]] == ["doc-37"]
    assert run(monkeypatch, "purify", finished_run, "--whole-documents", "--json") == 0
    assert last_json(capsys)["rule"].endswith("and every other row of their documents")
    assert run(monkeypatch, "purify", finished_run, "--out", str(tmp_path / "clean")) == 0
    assert f"corpus: {tmp_path / 'clean'}" in capsys.readouterr().out
    assert storage.exists(str(tmp_path / "clean" / "manifest.json"))
    assert run(monkeypatch, "purify", finished_run, "--out", str(tmp_path / "clean")) == 2


def test_a_run_compared_with_itself_has_no_new_leak(
    finished_run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "diff", finished_run, finished_run, "--json") == 0
    assert last_json(capsys)["newly_leaked"] == []


def test_a_new_leak_between_two_runs_is_exit_code_3(
    finished_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads(storage.read_bytes(storage.join(finished_run, "report.json")))
    for query in report["queries"]:
        query["leaked"] = False
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "report.json").write_text(json.dumps(report))
    assert run(monkeypatch, "diff", str(tmp_path / "before"), finished_run) == 3
