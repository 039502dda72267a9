"""Faults while rows are scored: actors that die, storage that stutters; on real Ray and a real S3 server."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import faulty_scan
import pytest
import scan_example
from fault_proxy import Fault, FaultProxy
from faults import ALL, Result, compare, fault, read_result
from faulty_scan import FaultyScan, KillAt, PoisonedScorer, make_scan
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from s3_server import S3Server

from benchmarks.actor_processes import actor_processes
from finf_core.errors import FinfError
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.aggregate import aggregate
from tasks.progress import Meter
from tasks.quarantine import Quarantine
from tasks.ray_cluster import connect, disconnect
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import count_rows, planned_units, score_shards
from tasks.shard_scorer import ShardScorer

TESTS = Path(__file__).parent
MOMENTS = [("GET", "corpus/"), ("PUT", "cache/base-"), ("PUT", "cache/scores-")]  # of a unit: begun, scored, published


@pytest.fixture(scope="module")
def quick_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        for name, value in {"seat.PROBE_SECONDS": 0.2, "actor_crew.BACKOFF_SECONDS": 0.1}.items():
            patch.setattr(f"tasks.{name}", value)
        yield
    disconnect()


@pytest.fixture
def poison(tmp_path: Path) -> Path:
    return tmp_path / "poison"


@pytest.fixture
def environment_behind_proxy(
    s3_bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, quick_ray: None, poison: Path
) -> Iterator[FaultProxy]:
    monkeypatch.setenv(faulty_scan.POISON, str(poison))
    with FaultProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)  # before Ray starts: the actors inherit it
        assert connect("local", 100_000_000)
        yield proxy
    disconnect()


@pytest.fixture
def scan(
    environment_behind_proxy: FaultProxy, s3_bucket: str, s3_server: S3Server, tiny_checkpoint: Path
) -> FaultyScan:
    return make_scan(s3_bucket, s3_server, environment_behind_proxy, tiny_checkpoint)


def test_no_row_is_lost_or_doubled_whatever_happens_while_rows_are_scored(scan: FaultyScan) -> None:
    """One after the other on the same actors, for to start them is what takes long."""
    with ActorPool(ShardScorer, (scan.job,), faulty_scan.OPTIONS) as pool:
        scan.prepare(pool)
        assert scan.undisturbed is not None
        for kind in Fault if ALL else (Fault.EXPIRED, Fault.DONE_UNTOLD):
            _storage_does(kind, scan, pool)
        for method, part in MOMENTS if ALL else MOMENTS[-1:]:
            _actors_die(scan, pool, method, part, share=0.5)
        if ALL:
            _actors_die(scan, pool, "PUT", "cache/base-", share=1.0)
        _schedules(scan, pool, 20 if ALL else 2)


def _storage_does(kind: Fault, scan: FaultyScan, pool: ActorPool) -> None:
    """The same fault to one request of seven, by chance: a fixed beat could hit every attempt at the same place."""
    before = scan.proxy.num_of[kind]
    with fault(f"S3: {kind.value}"):
        scan.proxy.faults = _at_random(random.Random(kind.value), 1 / 7, [kind])
        try:
            found = scan.score(pool)
        finally:
            scan.proxy.faults = lambda method, path: None
        assert scan.proxy.num_of[kind] - before > 5
        compare(found, scan.undisturbed)


def _at_random(draw: random.Random, rate: float, kinds: list[Fault]) -> Callable[[str, str], Fault | None]:
    drawing = threading.Lock()

    def decide(method: str, path: str) -> Fault | None:
        with drawing:
            return draw.choice(kinds) if draw.random() < rate else None

    return decide


def _actors_die(scan: FaultyScan, pool: ActorPool, method: str, part: str, share: float) -> None:
    which = "all actors" if share == 1.0 else "half of the actors"
    with fault(f"{which} killed at {method} {part}"):
        scan.proxy.faults = killer = KillAt(method, part, share)
        found = scan.score(pool)
        scan.proxy.faults = lambda method, path: None
        assert killer.num_killed == (2 if share == 1.0 else 1)
        compare(found, scan.undisturbed)


def _schedules(scan: FaultyScan, pool: ActorPool, num: int) -> None:
    """Faults of all kinds, at random, while actors are killed at random."""
    kinds = st.lists(st.sampled_from(list(Fault)), min_size=1, max_size=4, unique=True)

    @settings(max_examples=num, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 2**32),
        rate=st.floats(0.02, 0.3),
        kinds=kinds,
        deaths=st.lists(st.floats(0.1, 4.0), max_size=2),
    )
    def survives(seed: int, rate: float, kinds: list[Fault], deaths: list[float]) -> None:
        draw = random.Random(seed)
        killers = [threading.Timer(seconds, _kill_one, [draw]) for seconds in deaths]
        with fault("a schedule of faults drawn at random"):
            scan.proxy.faults = _at_random(draw, rate, kinds)
            for killer in killers:
                killer.start()
            try:
                found = scan.score(pool)
            finally:
                scan.proxy.faults = lambda method, path: None
                for killer in killers:
                    killer.cancel()
            compare(found, scan.undisturbed)

    survives()


def _kill_one(draw: random.Random) -> None:
    if processes := actor_processes():
        draw.choice(processes).kill()


def test_a_poisoned_unit_is_set_aside_by_name_and_scored_when_it_is_none_any_more(
    scan: FaultyScan, poison: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.actor_crew.MAX_DEATHS", 2)  # each costs the start of an actor
    told: list[str] = []
    with ActorPool(PoisonedScorer, (scan.job,), faulty_scan.OPTIONS, told.append) as pool:
        scan.prepare(pool)
        poison.touch()
        with fault("a poisoned row group"):
            compare(scan.score(pool, told.append), _without(scan.undisturbed, {f"doc-{row}" for row in range(24, 32)}))
            [unit] = Quarantine(scan.job).read()
            assert unit.unit.shard.endswith("shard-003.parquet")
            assert "2 actors died" in unit.reason
            assert any("8 rows are set aside" in line for line in told)
            assert count_rows(scan.job)[:3] == (184, 8, 192)
            totals = json.loads(storage.read_bytes(scan.job.totals_uri))
            assert (totals["num_rows"], totals["num_quarantined_rows"]) == (184, 8)
            [named] = totals["quarantined"]
            assert (named["rows"], named["num_rows"]) == ("0 to 7", 8)
        poison.unlink()
        with fault("a poisoned row group that is none any more"):
            Quarantine(scan.job).release()
            assert not storage.exists(scan.job.totals_uri)
            score_shards(scan.job, pool, Meter())
            aggregate(scan.job)
            compare(read_result(scan.job.run_uri), scan.undisturbed)


def test_too_much_poison_ends_the_run(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """One of a hundred units may be set aside, and one of a few; not two of three."""
    corpus = scan_example.write_shards(str(tmp_path / "corpus"), scan_example.texts(24), 3)
    queries = scan_example.write_queries(str(tmp_path / "queries.parquet"))
    job = resolve_inputs(
        scan_example.scan_spec(tiny_checkpoint, corpus, queries), scan_example.run_options(str(tmp_path))
    )
    first, second, _ = planned_units(job)
    quarantine = Quarantine(job)
    quarantine.add(first, "died", num_units=3)
    with pytest.raises(FinfError, match="2 of 3 units could not be done"):
        quarantine.add(second, "died", num_units=3)
    assert len(Quarantine(job)) == 1


def _without(result: Result | None, documents: set[str]) -> Result:
    assert result is not None
    return Result(
        Counter(key for key in result.times if key[1] not in documents),
        {key: numbers for key, numbers in result.numbers.items() if key[1] not in documents},
        {query: number - len(documents) for query, number in result.counted.items()},
    )
