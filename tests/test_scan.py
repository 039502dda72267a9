"""The whole scan as a user runs it: the command line, a real Prefect server, Ray actors, and S3."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import scan_example
from s3_server import S3Server

from finf_core.errors import InputError
from tasks import storage

FINF = str(Path(sys.executable).parent / "finf")
WAIT_SECONDS = 240
RATIO_TOLERANCE = 1e-4  # one actor has both cores, three have one each: other threads, other rounding
FOUND_LEAKAGE = 3


def write_inputs(folder: str, local: Path, model: Path, num_shards: int = 12) -> Path:
    """Corpus and queries below `folder` (local or S3), the config on this machine."""
    corpus = scan_example.write_shards(storage.join(folder, "corpus"), scan_example.corpus_texts(), num_shards)
    queries = scan_example.write_queries(storage.join(folder, "queries.parquet"))
    config = local / "scan.toml"
    config.write_text(scan_example.CONFIG.format(model=model, corpus=corpus, queries=queries))
    return config


def run_finf(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FINF, *arguments], env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS)


def run_scan(config: Path, store: str, environment: Mapping[str, str], actors: int = 1) -> dict[str, Any]:
    done = run_finf("scan", str(config), "--store", store, "--actors", str(actors), "--json", environment=environment)
    assert done.returncode == FOUND_LEAKAGE, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def finished_units(store: str) -> dict[str, str]:
    """Name -> etag of every finished unit of every scan in a store."""
    try:
        return {
            item.uri: item.etag for item in storage.list_objects(storage.join(store, "cache", "scores-*", "*.parquet"))
        }
    except InputError:  # nothing there yet
        return {}


def read_top(run: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = storage.read_table(storage.join(run, "top.parquet")).to_pylist()
    return rows


def task_runs(prefect_url: str, key: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{prefect_url}/{key}/filter", data=b"{}", headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_a_scan_from_s3_to_s3_finds_the_leak_then_runs_from_cache_then_mends_what_was_lost(
    s3_server: S3Server,
    s3_bucket: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    finf_environment: dict[str, str],
    prefect_url: str,
) -> None:
    environment = finf_environment | {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment["FINF_RAY_ADDRESS"] = ""  # a cluster of its own: the shared one knows no keys of this bucket
    config = write_inputs(s3_bucket, tmp_path, tiny_checkpoint)
    store = storage.join(s3_bucket, "store")
    first = run_scan(config, store, environment, actors=2)
    assert (first["num_leaked"], first["num_queries"], first["num_rows"]) == (1, 4, 96)
    [leak] = [row for row in read_top(first["run"]) if row["query_id"] == "0" and row["rank"] == 1]
    assert leak["document_id"] == "doc-37"
    assert leak["mirror_ratio"] == pytest.approx(1.0, abs=0.02)
    names = storage.list_names(first["run"])
    assert {"spec.json", "top.parquet", "queries.parquet", "report.json", "report.html"} <= names
    artifacts = task_runs(prefect_url, "artifacts/latest")  # what the UI shows; a busy server may hold one more
    assert [artifact["data"] for artifact in artifacts if artifact["key"] == "example-score-shards"] == [100.0]

    units, runs_before = finished_units(store), {run["id"] for run in task_runs(prefect_url, "task_runs")}
    report = storage.list_objects(storage.join(first["run"], "report.json"))
    second = run_scan(config, store, environment, actors=1)
    assert second == first
    assert finished_units(store) == units
    assert storage.list_objects(storage.join(first["run"], "report.json")) == report
    new = [run for run in task_runs(prefect_url, "task_runs") if run["id"] not in runs_before]
    states = {run["name"]: run["state"]["name"] for run in new}
    assert states.pop("resolve inputs") == "Completed"
    assert set(states.values()) == {"Cached"}, states
    assert len(states) == 10

    lost = sorted(units)[0]
    for uri in (lost, *(storage.join(first["run"], name) for name in ("report.json", "totals.json"))):
        s3_server.client().delete_object(Bucket=s3_bucket.removeprefix("s3://"), Key=uri.removeprefix(f"{s3_bucket}/"))
    third = run_scan(config, store, environment, actors=1)  # Prefect remembers all of it; the store does not
    assert (third["run"], third["num_leaked"]) == (first["run"], 1)
    again = finished_units(store)
    assert again.keys() == units.keys()
    assert {uri: again[uri] for uri in units if uri != lost} == {uri: units[uri] for uri in units if uri != lost}

    status = run_finf("status", first["run"], "--json", environment=environment)
    assert json.loads(status.stdout)["complete"]


def test_one_pass_for_all_queries_finds_the_leak_and_then_runs_from_cache(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str], prefect_url: str
) -> None:
    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint)
    config.write_text(config.read_text() + '[strategy]\nkind = "one_pass"\nrescored_rows = 3\n')
    store = str(tmp_path / "store")
    first = run_scan(config, store, finf_environment, actors=2)
    assert (first["num_leaked"], first["num_queries"], first["num_rows"]) == (1, 4, 96)
    top = read_top(first["run"])
    assert (top[0]["query_id"], top[0]["rank"], top[0]["document_id"]) == ("0", 1, "doc-37")
    assert top[0]["mirror_ratio"] == pytest.approx(1.0, abs=0.02)
    report = json.loads(storage.read_bytes(storage.join(first["run"], "report.json")))
    assert report["strategy"]["spec"]["kind"] == "one_pass"
    assert "one pass for all 4 queries" in " ".join(report["checks"])
    runs_before = {run["id"] for run in task_runs(prefect_url, "task_runs")}
    assert run_scan(config, store, finf_environment) == first
    new = [run for run in task_runs(prefect_url, "task_runs") if run["id"] not in runs_before]
    states = {run["name"]: run["state"]["name"] for run in new}
    assert states.pop("resolve inputs") == "Completed"
    assert set(states.values()) == {"Cached"}
    assert {"project updates", "keep rows", "score kept rows"} <= states.keys()


def kill_when_some_units_are_done(
    config: Path, store: str, environment: Mapping[str, str], num_done: int
) -> dict[str, str]:
    """Start a scan, kill -9 its process when `num_done` units are there, and return what was finished then."""
    process = subprocess.Popen(
        [FINF, "scan", str(config), "--store", store, "--actors", "1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(finished_units(store)) < num_done:
            assert process.poll() is None, "the scan ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return finished_units(store)


def test_after_kill_9_only_the_missing_units_are_scored_and_the_result_is_the_same(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_inputs(str(tmp_path / "inputs"), tmp_path, tiny_checkpoint, num_shards=24)
    undisturbed = run_scan(config, str(tmp_path / "undisturbed"), finf_environment, actors=1)
    store = str(tmp_path / "store")
    before = kill_when_some_units_are_done(config, store, finf_environment, num_done=3)
    assert 3 <= len(before) < 24
    resumed = run_scan(config, store, finf_environment, actors=2)
    after = finished_units(store)
    assert len(after) == 24
    assert {uri: after[uri] for uri in before} == before  # not written again
    found, wanted = (
        {(row["query_id"], row["rank"], row["document_id"]): row["row_ratio"] for row in read_top(result["run"])}
        for result in (resumed, undisturbed)
    )
    assert found == pytest.approx(wanted, abs=RATIO_TOLERANCE)  # same rows, same ranks


def test_wrong_input_is_one_line_and_exit_code_2(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_inputs(str(tmp_path / "inputs"), tmp_path, tiny_checkpoint)
    config.write_text(config.read_text().replace('id_column = "id"', 'text_column = "body"'))
    done = run_finf("scan", str(config), "--store", str(tmp_path / "store"), environment=finf_environment)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "shard-000.parquet: no column 'body' (corpus.text_column)" in line
    assert not (tmp_path / "store").exists()


def test_a_prefect_server_that_is_not_there_is_one_line_that_says_what_to_do(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_inputs(str(tmp_path / "inputs"), tmp_path, tiny_checkpoint)
    nobody = finf_environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = run_finf("scan", str(config), "--store", str(tmp_path / "store"), environment=nobody)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "http://127.0.0.1:9/api" in line
    assert "unset PREFECT_API_URL" in line


STAGES = """
from prefect import flow
from finf_core.errors import InputError, StorageError
from flows.stage import Stages
calls = []

def stutter():
    calls.append("storage")
    if calls.count("storage") < 3:
        raise StorageError("try again")
    return "done"

def wrong():
    calls.append("input")
    raise InputError("never again")

@flow
def example():
    stages = Stages()
    print(stages.always("stutter", stutter))
    stages.always("wrong", wrong)

try:
    example()
except InputError as error:
    print(error, calls.count("storage"), calls.count("input"))
"""


def test_a_stage_is_retried_when_storage_stutters_and_never_for_wrong_input(finf_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STAGES], env=finf_environment, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert done.stdout.splitlines() == ["done", "never again 3 1"], done.stderr
