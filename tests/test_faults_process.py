"""Faults of whole processes: the scan itself, its Prefect server, its Ray head; through the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import scan_example
from fault_proxy import Fault, FaultProxy
from faults import Result, compare, fault, read_result, slow_fault
from faulty_scan import POISON
from prefect_server import running_prefect_server
from s3_server import S3Server

from benchmarks.actor_processes import actor_processes
from flows.guard import MARK
from tasks import storage

TESTS = Path(__file__).parent
FINF = str(Path(sys.executable).parent / "finf")
WAIT_SECONDS = 400
NUM_ROWS, NUM_SHARDS = 320, 40
FOUND_LEAKAGE, NOT_ALL_SCORED, STOPPED = 3, 4, 143
CLEAN = ["the north wind has no name", "seven is a number and eight is too", "nobody was at home when it rang"]


@dataclass
class Example:
    """A config, and what comes of it where nothing goes wrong."""

    config: Path
    environment: Mapping[str, str]
    undisturbed: Result

    def start(self, store: str, **environment: str) -> subprocess.Popen[str]:
        command = [FINF, "scan", str(self.config), "--store", store, "--actors", "2", "--batch-tokens", "64", "--json"]
        return subprocess.Popen(
            command,
            env={name: value for name, value in {**self.environment, **environment}.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], code: int = FOUND_LEAKAGE) -> str:
        """What a process says on standard error, when it has ended as it should."""
        out, said = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == code, said
        if code == FOUND_LEAKAGE:
            compare(read_result(json.loads(out.splitlines()[-1])["run"]), self.undisturbed)
        return said

    def run(self, store: str, **environment: str) -> str:
        return self.finish(self.start(store, **environment))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, prefect_url: str) -> Example:
    folder = tmp_path_factory.mktemp("faults")
    corpus = scan_example.write_shards(
        str(folder / "corpus"), scan_example.corpus_texts(NUM_ROWS), NUM_SHARDS, group_rows=4
    )
    queries = scan_example.write_queries(str(folder / "queries.parquet"))
    config = folder / "scan.toml"
    text = scan_example.CONFIG.format(model=tiny_checkpoint, corpus=corpus, queries=queries)
    config.write_text(text.replace("top_k = 10", f"top_k = {NUM_ROWS}"))
    environment = os.environ | {"PREFECT_API_URL": prefect_url, "PREFECT_HOME": str(folder / "prefect")}
    made = Example(config, environment, Result.nothing())
    process = made.start(str(folder / "undisturbed"))
    out, said = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == FOUND_LEAKAGE, said
    made.undisturbed = read_result(json.loads(out.splitlines()[-1])["run"])
    assert len(made.undisturbed.times) == 4 * NUM_ROWS
    return made


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def units_done(store: str) -> dict[str, str]:
    """Unit -> its etag, of whole ones."""
    pattern = storage.join(store, "cache", "scores-*", "*.parquet")
    with suppress(Exception):
        return {item.uri: item.etag for item in storage.list_objects(pattern)}
    return {}


def kill(process: subprocess.Popen[str], name: str) -> None:
    """Whatever the scan has started whose command holds a name."""
    killed = 0
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                child.kill()
                killed += 1
    assert killed, name


def processes_of(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def mark_of(process: subprocess.Popen[str]) -> str:
    """By which the guard knows all processes of a run: taken from the first of them."""
    marks: set[str] = set()

    def found() -> bool:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                marks.update(filter(None, [child.environ().get(MARK)]))
        return bool(marks)

    wait_until(found, process)
    [mark] = marks
    return mark


def no_process_left(mark: str) -> None:
    deadline = time.monotonic() + 30
    while processes_of(mark):
        assert time.monotonic() < deadline, processes_of(mark)
        time.sleep(0.2)


def test_a_run_that_is_stopped_and_then_killed_leaves_no_process_behind_and_goes_on_where_it_was(
    example: Example, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    with fault("SIGTERM while rows are scored"):
        process = example.start(store)
        mark = mark_of(process)
        wait_until(lambda: len(units_done(store)) >= 5, process)
        process.terminate()
        asked = time.monotonic()
        said = example.finish(process, STOPPED)
        assert time.monotonic() - asked < 30  # a spot machine gives two minutes, some half of one
        assert "run the same command again to go on" in said
        assert "Traceback" not in said
        no_process_left(mark)
    stopped = units_done(store)
    assert len(stopped) < NUM_SHARDS - 5
    with fault("the flow's process killed (-9) while rows are scored"):
        process = example.start(store, PREFECT_API_URL="")  # with a Prefect server of its own
        mark = mark_of(process)
        wait_until(lambda: len(units_done(store)) >= len(stopped) + 3, process)
        names = {each.name() for each in processes_of(mark)}
        process.kill()
        assert {"gcs_server", "raylet"} <= names
        assert len(names) > 3
        process.communicate()
        no_process_left(mark)
        killed = units_done(store)
        assert len(killed) < NUM_SHARDS
        example.run(store)
    after = units_done(store)
    assert {uri: after[uri] for uri in stopped | killed} == stopped | killed  # none was written again


def test_two_runs_at_once_on_one_store_both_have_the_whole_result(example: Example, tmp_path: Path) -> None:
    with fault("two runs of one config at once"):
        store = str(tmp_path / "store")
        first, second = example.start(store), example.start(store)
        answers = [process.communicate(timeout=WAIT_SECONDS) for process in (first, second)]
        assert [process.returncode for process in (first, second)] == [FOUND_LEAKAGE] * 2, answers
        runs = [json.loads(out.splitlines()[-1])["run"] for out, _ in answers]
        assert runs[0] == runs[1]
        compare(read_result(runs[0]), example.undisturbed)
        assert len(units_done(store)) == NUM_SHARDS
        with pytest.raises(StopIteration):
            next(Path(store).rglob("*.partial"))


@slow_fault
def test_the_process_may_be_killed_after_every_stage(example: Example, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for num_stages in range(1, 11):  # the eleventh is the report, after which there is nothing to lose
        with fault(f"the flow's process killed (-9) after stage {num_stages}"):
            script = [sys.executable, str(TESTS / "scan_that_dies.py"), str(example.config), store, str(num_stages)]
            died = subprocess.run(script, env=dict(example.environment), capture_output=True, timeout=WAIT_SECONDS)
            assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
            if num_stages == 10:
                example.run(store)


@slow_fault
def test_a_run_with_a_poisoned_shard_ends_complete_except_for_it_and_says_so_to_everybody(
    example: Example, tmp_path: Path
) -> None:
    clean = scan_example.write_queries(str(tmp_path / "queries.parquet"), [("", text) for text in CLEAN])
    config, store, poison = tmp_path / "scan.toml", tmp_path / "store", tmp_path / "poison"
    text = re.sub('path = ".*queries.parquet"', f'path = "{clean}"', example.config.read_text())
    config.write_text(text)
    poison.touch()
    environment = {
        **example.environment,
        POISON: str(poison),
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }

    def finf(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(TESTS / "scan_with_poison.py"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS)

    scan = ("scan", str(config), "--store", str(store), "--actors", "2", "--batch-tokens", "64", "--json")
    with fault("a poisoned shard, through the command line"):
        done = finf(*scan)
        assert done.returncode == NOT_ALL_SCORED, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        assert (result["num_rows"], result["num_quarantined_rows"], result["num_leaked"]) == (NUM_ROWS - 8, 8, 0)
        run = Path(result["run"])
        assert "Complete except for" in (run / "report.html").read_text()
        assert "shard-003.parquet" in (run / "report.html").read_text()
        assert "8 rows" in (run / "summary.md").read_text()
        assert 'errors="1"' in (run / "junit.xml").read_text()
        assert "8 rows are set aside" in done.stderr
        assert "complete except for 8 rows" in finf("report", str(run)).stdout
        assert json.loads(finf("status", str(run), "--json").stdout)["rows_set_aside"] == 8
        assert finf(*scan).returncode == NOT_ALL_SCORED  # from the cache
    with fault("a poisoned shard that is none any more, through the command line"):
        poison.unlink()
        done = finf(*scan, "--retry-quarantined")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["num_rows"] == NUM_ROWS
        assert "Complete except for" not in (run / "report.html").read_text()


@slow_fault
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_run_needs_no_prefect_server_once_it_has_begun(example: Example, tmp_path: Path, comes_back: bool) -> None:
    home = tmp_path / "server"
    home.mkdir()
    what = "is away for a minute" if comes_back else "never comes back"
    with fault(f"the Prefect server {what}"):
        store = str(tmp_path / "store")
        with running_prefect_server(home) as url:
            process = example.start(store, PREFECT_API_URL=url, PREFECT_CLIENT_MAX_RETRIES="3")
            wait_until(lambda: len(units_done(store)) >= 3, process)
        if comes_back:
            time.sleep(60)
            with running_prefect_server(home, port=int(url.rpartition(":")[2].partition("/")[0])):
                example.finish(process)
        else:
            example.finish(process)


@slow_fault
def test_a_lost_ray_head_is_replaced_and_the_run_goes_on(example: Example, tmp_path: Path) -> None:
    with fault("the Ray head lost while rows are scored"):
        store = str(tmp_path / "store")
        process = example.start(store)
        mark = mark_of(process)
        wait_until(lambda: len(units_done(store)) >= 3, process)
        for actor in actor_processes(process.pid):
            actor.suspend()  # else they would finish before anybody noticed
        kill(process, "gcs/gcs_server")
        said = example.finish(process)
        assert "the head of the Ray cluster does not answer" in said
        no_process_left(mark)


@contextmanager
def s3_example(example: Example, bucket: str, server: S3Server, tmp_path: Path) -> Iterator[tuple[Example, FaultProxy]]:
    """The same scan from S3 to S3, through a proxy."""
    local = example.config.parent / "corpus"
    for shard in local.iterdir():
        storage.publish_bytes(storage.join(bucket, "corpus", shard.name), shard.read_bytes())
    config = tmp_path / "scan.toml"
    config.write_text(example.config.read_text().replace(str(local), f"{bucket}/corpus"))
    with FaultProxy(server.endpoint) as proxy:
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        environment = {**example.environment, **aws, "AWS_ENDPOINT_URL": proxy.endpoint}
        yield Example(config, environment, example.undisturbed), proxy


@slow_fault
def test_an_s3_server_may_be_gone_for_a_minute(
    example: Example, s3_bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    store = storage.join(s3_bucket, "store")
    with (
        fault("the S3 server gone for a minute"),
        s3_example(example, s3_bucket, s3_server, tmp_path) as (remote, proxy),
    ):
        process = remote.start(store)
        wait_until(lambda: len(units_done(store)) >= 3, process)
        proxy.faults = lambda method, path: Fault.REFUSED

        def come_back() -> None:
            proxy.faults = lambda method, path: None

        threading.Timer(60, come_back).start()
        said = remote.finish(process)
        assert "waiting" in said
        assert proxy.num_of[Fault.REFUSED] > 5


@slow_fault
def test_a_local_disk_may_be_full_for_a_while(example: Example, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        with fault("the local disk full for a while"):
            process = example.start(str(disk / "store"))
            wait_until(lambda: len(units_done(str(disk / "store"))) >= 3, process)
            fill(disk / "other")
            time.sleep(20)
            (disk / "other").unlink()
            assert "no space left" in example.finish(process)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
