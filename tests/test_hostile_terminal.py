"""What others wrote moves no cursor: the real command line on files whose names, ids and texts are hostile."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scan_example
from hostile_names import COMMANDS, EVERYTHING
from test_cli import run
from test_shard_scorer import score_everything

from tasks import storage
from tasks.publish_report import publish_report

FINF = str(Path(sys.executable).parent / "finf")
ASCII = {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C"}


def finf(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, to the byte."""
    done = subprocess.run([FINF, *arguments], env=environment or os.environ, capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


def assert_harmless(text: str) -> None:
    assert [command for command in COMMANDS if command in text] == []


def assert_one_error_line(error: str) -> None:
    assert error.endswith("\n")
    [line] = error[:-1].split("\n")
    assert line.startswith("finf: ")
    assert_harmless(line)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / f"{EVERYTHING}.parquet"
    table = pa.table({EVERYTHING: [f"text {EVERYTHING}"], "number": [float("nan")], "bytes": [b"\xff\x1b"]})
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def hostile_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run in which the leaked row, its document, its shard and its query have hostile names."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = scan_example.corpus_texts()[:48]
    corpus = folder / "corpus"
    corpus.mkdir()
    pq.write_table(
        pa.table({"id": [f"{EVERYTHING}{row}" for row in range(len(rows))], "text": rows}),
        corpus / f"{EVERYTHING}.parquet",
        row_group_size=8,
    )
    items = [("", scan_example.LEAK), *(("question: ", text) for text in scan_example.texts(3, seed=1))]
    table = pa.table({"id": [f"{EVERYTHING}{index}" for index in range(4)], "prompt": [p for p, _ in items]})
    pq.write_table(table.append_column("answer", [[a for _, a in items]]), folder / "queries.parquet")
    spec = scan_example.scan_spec(tiny_checkpoint, str(corpus), str(folder / "queries.parquet"))
    spec = scan_example.with_query_ids(spec, "id")
    job = score_everything(spec, folder / "store")
    publish_report(job, [])
    return job.run_uri


def test_a_row_is_printed_with_every_command_spelt_out(shard: Path) -> None:
    code, out, _ = finf("row", str(shard), "0")
    assert code == 0
    assert_harmless(out.replace("\t", ""))
    assert out.count("── ") == 3
    assert "\\n0 of 4 queries leaked" in out  # a column's name stays on its line
    assert "\\u001b[2J" in out
    assert "[red]x[bold]" in out


def test_json_of_a_row_is_exact_on_any_terminal(shard: Path) -> None:
    for extra in ({}, ASCII):
        code, out, _ = finf("row", str(shard), "0", "--json", environment=os.environ | extra)
        assert code == 0
        found = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
        assert out.isascii()
        assert (found["shard"], found["columns"][EVERYTHING]) == (str(shard), f"text {EVERYTHING}")
        assert found["columns"]["number"] is None


def test_a_terminal_that_lacks_a_character_gets_its_name(shard: Path) -> None:
    code, out, error = finf("row", str(shard), "0", environment=os.environ | ASCII)
    assert (code, error) == (0, "")
    assert out.isascii()
    assert "\\u2500\\u2500 number" in out


@pytest.mark.parametrize("environment", [{}, ASCII])
def test_an_error_is_one_line_whatever_it_names(shard: Path, environment: dict[str, str]) -> None:
    missing = str(shard.with_name(f"{EVERYTHING}2.parquet"))
    for arguments in (
        ("row", str(shard), "7"),
        ("row", missing, "0"),
        ("row", f"nosuch{EVERYTHING}://x", "0"),
        ("row", f"s3://{EVERYTHING}/x", "0"),
    ):
        code, out, error = finf(*arguments, environment=os.environ | environment)
        assert out == ""
        assert code == 2 or (code == 1 and arguments[1].startswith("s3://")), arguments
        assert_one_error_line(error)


def test_an_error_of_every_command_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / EVERYTHING)
    for arguments in (
        *((command, missing) for command in ("scan", "plan", "status", "report", "purify", "evaluate")),
        ("diff", missing, missing),
        ("init", EVERYTHING),
        ("verify", "--preset", EVERYTHING),
    ):
        assert run(monkeypatch, *arguments) == 2, arguments
        told = capsys.readouterr()
        assert told.out == ""
        assert_one_error_line(told.err)


def test_a_name_that_is_no_text_is_refused_in_one_line(shard: Path, tmp_path: Path) -> None:
    shard.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.parquet"))
    code, _, error = finf("row", str(tmp_path / "\udcff.parquet"), "0")
    assert code == 2
    assert_one_error_line(error)
    assert "must be UTF-8" in error


def write_config(folder: Path, model: Path, text: str) -> Path:
    """A config whose corpus has hostile names and one bad row."""
    (folder / "corpus").mkdir()
    rows = [*scan_example.texts(9), None]
    pq.write_table(
        pa.table({"id": [f"{EVERYTHING}{row}" for row in range(10)], "text": rows}),
        folder / "corpus" / f"{EVERYTHING}.parquet",
    )
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    config = folder / "scan.toml"
    config.write_text(scan_example.CONFIG.format(model=model, corpus=folder / "corpus", queries=queries) + text)
    return config


def test_a_scan_names_a_bad_row_of_a_hostile_shard_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_config(tmp_path, tiny_checkpoint, "")
    code, out, error = finf(
        "scan", str(config), "--store", str(tmp_path / "store"), "--actors", "1", environment=finf_environment
    )
    assert (code, out) == (2, "")
    *_, last = error.splitlines(keepends=True)
    assert_one_error_line(last)
    assert_harmless(error.replace("\n", ""))
    assert "row 9: " in last
    assert "\\u001b[2J" in last


def test_mistakes_in_a_config_are_told_in_one_line(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_config(tmp_path, tiny_checkpoint, "").read_text()
    quoted = json.dumps(EVERYTHING).replace("\\u007f", "\\u007F")
    for mistake in (
        written.replace('name = "example"', f"name = {quoted}"),
        written.replace('id_column = "id"', f"id_column = {quoted}"),
        written.replace('id_column = "id"', f"{quoted} = 1"),
        written.replace('target = "{answer}"', f"target = {quoted}"),
        written.replace("curvature_rows = 32", f"curvature_rows = {quoted}"),
        written.replace("[rank]", f"[{quoted}]"),
        f"{written}\n\x1b[31m = 1",
    ):
        config = tmp_path / f"{EVERYTHING}.toml"
        config.write_text(mistake)
        assert run(monkeypatch, "plan", str(config)) == 2, mistake
        told = capsys.readouterr()
        assert told.out == ""
        assert_one_error_line(told.err)


def test_status_report_purify_and_diff_print_hostile_names_on_the_lines_that_are_theirs(
    hostile_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"queries": [query | {"leaked": False} for query in report_of(hostile_run)["queries"]]}
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "report.json").write_text(json.dumps(report_of(hostile_run) | before))
    for arguments, num_lines, wanted in (
        (("status", hostile_run), 1, "complete"),
        (("report", hostile_run), 2, "1 of 4 queries leaked"),
        (("purify", hostile_run), 3, "copy, query a\\u001b[2J"),
        (("diff", str(tmp_path / "before"), hostile_run), 5, "newly leaked: 1: a\\u001b[2J"),
    ):
        assert run(monkeypatch, *arguments) == (3 if arguments[0] == "diff" else 0)
        out = capsys.readouterr().out
        assert len(out.splitlines()) == out.count("\n") == num_lines
        assert_harmless(out.replace("\n", ""))
        assert wanted in out


def report_of(run: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(storage.read_bytes(storage.join(run, "report.json")))
    return report


def test_an_error_that_nobody_foresaw_is_told_without_its_commands() -> None:
    program = f"from flows.terminal import prepare_terminal; prepare_terminal(); raise OSError({EVERYTHING!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "OSError: a\\u001b[2J" in done.stderr
    assert_harmless(done.stderr.replace("\n", "").replace("\t", ""))


def test_the_lines_above_the_progress_bar_are_no_markup_and_no_commands() -> None:
    program = f"""
from flows.progress_bar import ProgressBar
with ProgressBar() as bar:
    bar.tell({EVERYTHING!r} + "[/red]")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert_harmless(done.stderr.replace("\n", ""))
    assert "[red]x[bold]" in done.stderr
    assert done.stderr.count("\n") == 1
