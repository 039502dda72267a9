"""The pool of Ray actors, on a real Ray of this machine."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pool_actors import Slow, TooLarge, Unlucky, WithoutModel, Worker

from finf_core.errors import CheckpointError, FinfError, InputError, StorageError
from tasks.actor_plan import plan_actors
from tasks.actor_pool import ActorPool, GivenUp, PoolOptions
from tasks.ray_cluster import connect, disconnect
from tasks.work_queue import WorkQueue

TESTS = Path(__file__).parent
BESIDE_OTHERS = PoolOptions(num_actors=1, num_cpus_per_actor=0.1)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all pools of this file: they find it running and leave it alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))  # Ray's workers know the packages that are installed, not our tests
        assert connect("local", 100_000_000)
        yield
        disconnect()


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def pool(ray_here: None, traces: Path) -> Iterator[ActorPool]:
    """Two actors that several tests use one after the other, as the stages of a run do."""
    options = PoolOptions(num_actors=2, num_cpus_per_actor=0.2, max_storage_seconds=0.5)
    with ActorPool(Worker, (str(traces),), options) as pool:
        yield pool


@pytest.fixture
def folder(traces: Path) -> Iterator[Path]:
    """The folder of the shared actors, empty."""
    yield traces
    for path in traces.iterdir():
        path.unlink()


@pytest.fixture
def quick(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "actor_crew.MAX_DEATHS": 3,
        "seat.PROBE_SECONDS": 0.1,
        "actor_crew.BACKOFF_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(f"tasks.{name}", value)


def _count(folder: Path, name: str) -> int:
    path = folder / name
    return path.stat().st_size if path.exists() else 0


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)
    return path.read_text()


# --- units ---


@pytest.mark.parametrize("num_actors", [1, 2, 3])
@pytest.mark.usefixtures("ray_here")
def test_every_unit_is_done_exactly_once(tmp_path: Path, num_actors: int) -> None:
    with ActorPool(Worker, (str(tmp_path),), PoolOptions(num_actors=num_actors)) as pool:
        results = dict(pool.map("mark", range(60)))
        while len(set(results.values())) < num_actors:  # a late starter
            results |= dict(pool.map("mark", range(1000, 1030)))
    assert not connect("local", 1), "Ray, which others had started, has ended with the pool"
    assert set(range(60)) <= set(results)
    assert {_count(tmp_path, f"done-{number}") for number in range(60)} == {1}


def test_one_pool_serves_one_map_after_another(pool: ActorPool) -> None:
    assert sorted(pool.map("double", range(5))) == [(i, 2 * i) for i in range(5)]
    assert list(pool.map("double", [7])) == [(7, 14)]
    assert list(pool.map("double", [])) == []


def test_equal_units_are_different_units(pool: ActorPool) -> None:
    assert list(pool.map("double", [4, 4, 4])) == [(4, 8)] * 3


def test_units_are_pulled_as_actors_come_free(pool: ActorPool) -> None:
    pulled = 0

    def units() -> Iterator[int]:
        nonlocal pulled
        while pulled < 100_000:
            pulled += 1
            yield pulled

    stream = pool.map("double", units())
    assert pulled == 0
    for num_done, _ in enumerate(stream, start=1):
        assert pulled <= num_done + 2 * 2 + 1
        if num_done == 20:
            break
    stream.close()  # with units in flight
    assert list(pool.map("double", [1])) == [(1, 2)]


def test_results_are_yielded_as_they_are_finished(pool: ActorPool) -> None:
    order = [seconds for seconds, _ in pool.map("nap", [2.0, 0.01, 0.02, 0.03])]
    assert order == [0.01, 0.02, 0.03, 2.0]


def test_two_maps_at_once_are_refused(pool: ActorPool) -> None:
    first = pool.map("nap", [0.01, 0.5, 0.5])
    next(first)
    with pytest.raises(FinfError, match="finish or close it first"):
        next(pool.map("double", [1]))
    assert len(list(first)) == 2


def test_an_error_of_the_source_of_units_reaches_the_caller(pool: ActorPool) -> None:
    def units() -> Iterator[int]:
        yield 1
        raise InputError("config.toml: no such column")

    with pytest.raises(InputError, match="no such column"):
        list(pool.map("double", units()))


@pytest.mark.usefixtures("ray_here")
def test_an_only_actor_on_a_cpu_gets_all_cores_as_threads(tmp_path: Path) -> None:
    with ActorPool(Worker, (str(tmp_path),), BESIDE_OTHERS) as pool:
        [(_, num_threads)] = pool.map("num_threads", [0])
    assert num_threads == os.cpu_count()


# --- exceptions of a unit ---


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("input", InputError, "shard-7.parquet: row 3 is empty"),
        ("checkpoint", CheckpointError, "weights.safetensors: wrong shape"),
    ],
)
def test_what_no_retry_can_help_is_raised_at_once_as_itself(
    pool: ActorPool, folder: Path, kind: str, error: type[FinfError], text: str
) -> None:
    with pytest.raises(FinfError) as raised:
        list(pool.map("fail", [kind]))
    assert type(raised.value) is error
    assert str(raised.value) == text
    assert _count(folder, "tries") == 1


@pytest.mark.usefixtures("quick")
def test_storage_that_comes_back_costs_only_time(pool: ActorPool, folder: Path) -> None:
    assert sorted(pool.map("fail_twice", range(6))) == [(i, i) for i in range(6)]
    assert _count(folder, "tries") == 3


@pytest.mark.usefixtures("folder")
def test_a_unit_that_waits_for_its_next_attempt_holds_up_nobody(pool: ActorPool) -> None:
    started = time.monotonic()
    order = [unit for unit, _ in pool.map("fail_twice", range(20))]
    assert order[-1] == 3
    assert time.monotonic() - started >= 1.0 + 2.0  # the pauses before the second and the third attempt


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("may_give_up", [False, True])
def test_storage_that_stays_away_is_a_storage_error_after_attempts_and_time(
    pool: ActorPool, folder: Path, may_give_up: bool
) -> None:
    started = time.monotonic()
    with pytest.raises(FinfError) as raised:
        list(pool.map("fail", ["storage"], may_give_up=may_give_up))
    assert time.monotonic() - started > 0.5
    assert type(raised.value) is StorageError
    assert str(raised.value) == "s3://corpus/a.parquet: no answer"
    assert _count(folder, "tries") >= 3


@pytest.mark.usefixtures("ray_here", "quick")
def test_storage_may_be_away_for_longer_than_the_attempts_last_and_that_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    options = replace(BESIDE_OTHERS, max_attempts=1)
    with ActorPool(Worker, (str(tmp_path),), options, told.append) as pool:
        assert sorted(pool.map("fail_twice", range(6))) == [(i, i) for i in range(6)]
    assert told == ["s3://corpus/a.parquet: no answer; waiting"] * 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kind", "text"), [("foreign", "ZeroDivisionError: by zero"), ("unpicklable", "no way home")])
def test_any_other_exception_names_the_unit_after_some_attempts(
    pool: ActorPool, folder: Path, kind: str, text: str
) -> None:
    with pytest.raises(FinfError) as raised:
        list(pool.map("fail", [kind]))
    assert str(raised.value).startswith(f"{kind!r} failed 3 times, at last with ")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert text in f"{raised.value} {raised.value.__cause__}"
    assert _count(folder, "tries") == 3


# --- deaths ---


def test_an_actor_killed_in_the_middle_costs_no_unit(pool: ActorPool, folder: Path) -> None:
    killer = threading.Thread(target=lambda: os.kill(int(_wait_for(folder / "pid")), signal.SIGKILL))
    killer.start()
    done = sorted(unit for unit, _ in pool.map("hang_at_first", range(30)))
    killer.join()
    assert done == list(range(30))
    assert _count(folder, "hung") == 2
    assert {_count(folder, f"done-{number}") for number in range(30)} == {1}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.usefixtures("folder")
def test_actors_killed_between_two_maps_are_built_anew(pool: ActorPool, restarted: bool) -> None:
    pids = {pid for _, pid in pool.map("mark", range(40))}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if restarted:  # there are processes again, but nothing in them
        psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)
        for seat in pool._ready_crew().seats:
            _until_awake(seat.actor)
    later = dict(pool.map("mark", range(100, 110)))
    assert set(later) == set(range(100, 110))
    assert pids.isdisjoint(later.values())


def _until_awake(actor: Any) -> None:
    import ray  # not before `connect` has set its environment

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(ray.exceptions.RayActorError):
            return ray.get(actor.wake.remote())
    raise TimeoutError


@pytest.mark.usefixtures("quick")
def test_a_unit_that_kills_its_actors_is_given_up_by_name(pool: ActorPool, folder: Path) -> None:
    with pytest.raises(FinfError, match=r"'poison': 3 actors died while they worked on it") as raised:
        list(pool.map("die_of", ["bread", "poison", "water"]))
    assert "\n" not in str(raised.value)
    assert _count(folder, "deaths") == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("method", "word"), [("die_of", "poison"), ("fail_of", "poison")])
def test_a_unit_that_no_actor_can_do_may_be_given_up_while_all_others_are_done(
    pool: ActorPool, folder: Path, method: str, word: str
) -> None:
    results = dict(pool.map(method, ["bread", word, "water"], may_give_up=True))
    assert results.keys() == {"bread", word, "water"}
    assert isinstance(results[word], GivenUp)
    assert results[word].reason.startswith(f"{word!r}")
    assert (results["bread"], results["water"]) == ("bread", "water")
    assert 2 <= _count(folder, "deaths") <= 3  # an actor may die once more before it has begun


@pytest.mark.usefixtures("quick", "folder")
def test_a_unit_is_done_in_another_way_after_deaths(pool: ActorPool) -> None:
    found = list(pool.map("die_of", ["poison"], after_deaths=lambda word, deaths: "bread" if deaths == 2 else word))
    assert found == [("poison", "bread")]


@pytest.mark.usefixtures("ray_here")
def test_a_cluster_that_is_lost_is_looked_for_again_and_no_unit_is_lost_or_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it only seems dead for a while; tests/test_faults_cluster.py really kills it."""
    monkeypatch.setattr("tasks.actor_crew.HEAD_PROBE_SECONDS", 0.1)
    monkeypatch.setattr("tasks.actor_crew.HEAD_LOST_SECONDS", 0.15)  # less than three probes take, however fast
    answers = iter([True, False, False, False])
    monkeypatch.setattr("tasks.actor_crew.head_answers", lambda: next(answers, True))
    told: list[str] = []
    with ActorPool(Worker, (str(tmp_path),), BESIDE_OTHERS, told.append) as pool:
        done = [unit for unit, _ in pool.map("nap", [0.1 + 0.001 * number for number in range(20)])]
    assert len(done) == len(set(done)) == 20
    assert len(told) == 1


SAY_NOTHING = """
import sys, time
from flows.environment import set_environment
set_environment()
from pool_actors import Worker
from tasks.actor_pool import ActorPool, PoolOptions
told = []
with ActorPool(Worker, (sys.argv[1],), PoolOptions(num_actors=1), told.append) as pool:
    found = list(pool.map("die_of", ["poison"], after_deaths=lambda word, deaths: "bread" if deaths else word))
    time.sleep(3)  # Ray speaks a moment later
assert found == [("poison", "bread")] and told, (found, told)
"""


def test_standard_output_is_a_results_whatever_dies(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(
        [sys.executable, "-c", SAY_NOTHING, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


# --- constructors ---


@pytest.mark.usefixtures("ray_here")
def test_a_constructor_that_cannot_succeed_is_heard_at_once(tmp_path: Path) -> None:
    with (
        ActorPool(WithoutModel, (str(tmp_path),), BESIDE_OTHERS) as pool,
        pytest.raises(FinfError) as raised,
    ):
        list(pool.map("double", range(5)))
    assert type(raised.value) is CheckpointError
    assert str(raised.value) == "no-such-model: no config.json"
    assert _count(tmp_path, "builds") == 1


@pytest.mark.usefixtures("ray_here", "quick")
def test_a_constructor_may_find_storage_away(tmp_path: Path) -> None:
    with ActorPool(Slow, (str(tmp_path),), BESIDE_OTHERS) as pool:
        assert sorted(pool.map("double", range(3))) == [(0, 0), (1, 2), (2, 4)]
    assert _count(tmp_path, "builds") == 3


@pytest.mark.usefixtures("ray_here", "quick")
def test_a_constructor_waits_for_storage_by_the_clock(tmp_path: Path) -> None:
    with ActorPool(Slow, (str(tmp_path),), replace(BESIDE_OTHERS, max_attempts=1)) as pool:
        assert list(pool.map("double", [1])) == [(1, 2)]


@pytest.mark.usefixtures("ray_here", "quick")
@pytest.mark.parametrize(
    ("actor_class", "text"),
    [
        (Unlucky, "cannot be built: RuntimeError: CUDA error: no kernel image"),
        (TooLarge, "an actor died 2 times while it was built"),
    ],
)
def test_actors_that_cannot_be_built_end_the_run(
    tmp_path: Path, actor_class: type, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.actor_crew.MAX_DEATHS", 2)  # each takes seconds
    options = replace(BESIDE_OTHERS, max_attempts=2)
    with ActorPool(actor_class, (str(tmp_path),), options) as pool, pytest.raises(FinfError, match=text) as raised:
        list(pool.map("double", range(5)))
    assert "\n" not in str(raised.value)
    assert _count(tmp_path, "builds") == 2


@pytest.mark.usefixtures("ray_here")
def test_actors_that_find_no_place_are_waited_for_and_told_of_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.actor_crew.QUIET_SECONDS", 0.1)
    told: list[str] = []
    options = PoolOptions(
        num_actors=1, num_cpus_per_actor=999, ray_address="a.cluster.that.may.grow", max_dead_seconds=1
    )
    with (
        ActorPool(Worker, (str(tmp_path),), options, told.append) as pool,
        pytest.raises(
            FinfError, match=r"found no place for 1 actor of 999 CPUs and 0 GPUs: it has \d+ CPUs and 0 GPUs"
        ),
    ):
        list(pool.map("double", range(5)))
    [line] = told
    assert line.endswith("waiting, 0 minutes at most")


def test_a_cluster_that_may_grow_is_given_the_time_to() -> None:
    own, others = PoolOptions(), PoolOptions(ray_address="10.0.0.1:6379")
    assert own.patience_seconds < others.patience_seconds
    assert replace(others, max_dead_seconds=1.0).patience_seconds == 1.0


# --- Ray itself, in a process of its own ---

SCRIPT = """
import signal, sys, threading
from pathlib import Path
import psutil
from pool_actors import Worker
from tasks.actor_pool import ActorPool, GivenUp, PoolOptions

def raylets():
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
pool = ActorPool(Worker, (sys.argv[1],), PoolOptions(num_actors=1, object_store_memory_bytes=80_000_000))
"""


@contextmanager
def _script(body: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    code = SCRIPT + textwrap.dedent(body)
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"PYTHONPATH": str(TESTS)},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # with a failed test nothing may stay behind
                os.killpg(process.pid, signal.SIGKILL)


def test_ray_starts_with_the_first_unit_and_ends_with_the_pool(tmp_path: Path) -> None:
    body = """
    def run():
        with pool:
            assert list(pool.map("double", [])) == []
            stream = pool.map("double", [1, 2])
            assert "ray" not in sys.modules and not raylets(), "Ray has started too early"
            assert next(stream) == (1, 2)
            children = psutil.Process().children(recursive=True)
            assert len(raylets()) == 1
            addresses = {connection.laddr.ip for child in children for connection in child.net_connections("inet")}
            assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}, addresses
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left, left
        print("all is well")

    thread = threading.Thread(target=run)  # as an orchestrator does it
    thread.start()
    thread.join()
    """
    with _script(body, tmp_path) as process:
        stdout, stderr = process.communicate(timeout=90)
    assert stdout.strip().endswith("all is well"), stderr


def test_ctrl_c_ends_the_actors_and_ray(tmp_path: Path) -> None:
    body = """
    with pool:
        for _ in pool.map("hang_at_first", [3]):
            pass
    """
    with _script(body, tmp_path) as process:
        actor = int(_wait_for(tmp_path / "pid"))
        children = psutil.Process(process.pid).children(recursive=True)
        assert actor in {child.pid for child in children}
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_an_input_error(address: str) -> None:
    with pytest.raises(InputError, match=f"no Ray cluster answers at {address}; check --ray-address"):
        connect(address, 1)


# --- plans and queues ---


@pytest.mark.parametrize(
    ("options", "cluster", "expected"),
    [
        (PoolOptions(), (2, 0, 2), (2, 1, 0, 1)),
        (PoolOptions(), (16, 0, 16), (2, 1, 0, 8)),
        (PoolOptions(), (1, 0, 1), (1, 1, 0, 1)),
        (PoolOptions(), (64, 8, 64), (8, 1, 1, 8)),
        (PoolOptions(num_actors=3), (2, 0, 2), (3, 0.5, 0, 1)),
        (PoolOptions(num_actors=3), (16, 2, 16), (3, 1, 0.5, 5)),
        (PoolOptions(num_actors=2), (64, 0, 8), (2, 1, 0, 8)),
        (PoolOptions(num_actors=4, num_cpus_per_actor=2, num_gpus_per_actor=0), (8, 1, 8), (4, 2, 0, 2)),
    ],
)
def test_a_plan_fills_the_machine(
    options: PoolOptions, cluster: tuple[float, float, float], expected: tuple[int, float, float, int]
) -> None:
    plan = plan_actors(options, *cluster)
    assert (plan.num_actors, plan.num_cpus, plan.num_gpus, plan.num_threads) == expected


def test_actors_that_do_not_fit_on_this_machine_are_refused() -> None:
    with pytest.raises(InputError, match="no room for 2 actors of 2 CPUs and 1 GPUs: this machine has 2 CPUs"):
        plan_actors(PoolOptions(num_actors=2, num_cpus_per_actor=2, num_gpus_per_actor=1), 2, 0, 2)


@pytest.mark.parametrize(
    "name", ["num_actors", "max_attempts", "object_store_memory_bytes", "max_storage_seconds", "max_dead_seconds"]
)
def test_an_option_that_is_not_positive_is_refused_by_name(name: str) -> None:
    make: Callable[..., PoolOptions] = PoolOptions
    with pytest.raises(InputError, match=f"pool option {name} = 0"):
        make(**{name: 0})


def test_a_unit_put_back_comes_first_and_one_put_off_when_it_is_due() -> None:
    queue = WorkQueue(iter("abc"))
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    queue.put_off(first, seconds=0.05)
    queue.put_back(second)
    assert queue.take() is second
    third = queue.take()
    assert third is not None
    assert third.unit == "c"
    assert queue.take() is None
    assert not queue.is_empty()
    time.sleep(0.06)
    assert queue.take() is first
    assert queue.is_empty()
