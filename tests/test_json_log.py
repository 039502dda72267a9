"""`FINF_LOG=json`: one object a line, with the ids of what it is about."""

import json
import subprocess
import sys

import pytest

from finf_core.errors import InputError
from flows.json_log import JsonLog
from flows.terminal import show_error
from tasks.corpus import Unit
from tasks.orders import GivenUp
from tasks.progress import Meter
from tasks.score_shards import told_of


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_rows_that_are_set_aside_are_told_with_run_shard_and_row(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLog() as log:
        log.run = "s3://store/run-1"
        log.tell(told_of(Unit("s3://corpus/a.parquet", 10, "e", 2, 3, 640, 32), GivenUp("5 actors died")))
    [line] = lines(capsys)
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "message": "32 rows are set aside: 5 actors died",
        "event": "set_aside",
        "run": "s3://store/run-1",
        "shard": "s3://corpus/a.parquet",
        "row": 640,
        "num_rows": 32,
    }


def test_a_stage_is_told_when_it_begins_and_ends_however_many_steps_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(JsonLog())
    meter.start("score shards", total=1000, unit="rows", done=10)
    for _ in range(990):
        meter.advance(1, tokens=7)
    told = lines(capsys)
    assert [(line["stage"], line["done"], line["total"]) for line in told] == [
        ("score shards", 10, 1000),
        ("score shards", 1000, 1000),
    ]


def test_a_line_that_would_break_out_of_its_line_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINF_LOG", "json")
    show_error(InputError('a.parquet: "x"\n{"level": "info"}'))
    [line] = lines(capsys)
    assert line["level"] == "error"
    assert line["event"] == "InputError"


def test_an_error_that_nobody_expected_is_one_line_with_its_traceback() -> None:
    code = "from flows.terminal import prepare_terminal; prepare_terminal(); 1 / 0"
    environment = {"FINF_LOG": "json", "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["level"], line["event"], line["message"]) == ("critical", "ZeroDivisionError", "division by zero")
    assert "Traceback" in line["traceback"]
