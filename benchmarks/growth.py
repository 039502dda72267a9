"""How time and memory grow with the corpus: linear and flat are the goals.

Two measurements, each size in a fresh process:

1. `finf scan` of a corpus times 1, 4 and 16 (the same shards again under other names), from disk to disk with real
   Ray actors. `time_over_linear`: seconds of the stages that read the whole corpus or all results (`READS_ALL`), at
   times 16, over 16 times those at times 1; all other stages are start-up and reported apart. `memory_growth`: the
   largest of the peak resident memory of the process that runs the flow, and of its actors, at times 16 over times 1.
2. Everything the pipeline does per shard but the model, for 10,000 and 100,000 shards: real Parquet objects of a few
   rows each (copies of one another) on local disk, real Ray actors with `ReadyScorer` in the place of the model, one
   unit of work per shard. `orchestration_ms_per_shard`: list, read footers, digest, plan, hand out, take receipts,
   merge. What the actors need to publish (encode, write and sync an object) is storage's work: reported apart,
   and taken out as if the actors had shared it evenly. `memory_growth`: peaks at 100,000 over 10,000.

python -m benchmarks.growth [--part corpus|shards|all] [--folder DIR] [--json]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.actor_processes import actor_processes
from finf_core.ratio_histogram import NUM_BINS
from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec
from finf_core.top_k import CANDIDATES
from finf_core.updates import MirroredUpdate
from flows.environment import set_environment
from flows.progress_bar import ProgressBar
from tasks import storage
from tasks.actor_pool import ActorPool, PoolOptions
from tasks.aggregate import aggregate
from tasks.demo.train import TrainSettings, train_model
from tasks.job import ScanJob
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.queries import read_queries
from tasks.query_sets import Share, queries_of_set
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import pending_units, score_shards
from tasks.unit_result import UnitReceipt, publish_unit
from tasks.update_store import publish_update

U = TypeVar("U")

ROOT = Path(__file__).parent.parent
TIMES = (1, 4, 16)
NUM_SHARDS = (10_000, 100_000)
NUM_QUERIES, TOP_K, SHARD_ROWS = 8, 20, 4
NUM_ACTORS = 2
POOL = PoolOptions(num_actors=NUM_ACTORS, ray_address="local")
TINY = TrainSettings(vocab_size=300, hidden_size=16, intermediate_size=16, num_layers=1, num_epochs=1)
READS_ALL = ("score shards", "keep rows", "aggregate")  # the stages of a scan whose time may grow with the corpus
MIB = 1 << 20

CONFIG = """
name = "growth"
[model]
path = "{model}"
[corpus]
path = "{corpus}"
id_column = "document_id"
[queries]
path = "{queries}"
context = "{{prompt}}"
target = "{{canonical_solution}}"
id_column = "task_id"
limit = 6
[update]
curvature_rows = 128
"""


class ReadyScorer:
    """Stands where the model would: publishes for every unit a ready-made result of its own."""

    def __init__(self, job: ScanJob) -> None:
        self.job = job
        queries = queries_of_set(job, read_queries(job.queries_uri), job.set_digest)
        self.query_ids = [query.query_id for query in queries]

    def ping(self) -> str:
        return "ready"

    def process(self, _: int) -> int:
        return os.getpid()

    def score_share(self, share: Share) -> UnitReceipt:
        unit = share.unit
        started, name = time.monotonic(), self.job.score_name(unit)
        numbers = np.random.default_rng(int(name[:8], 16))
        num = unit.num_rows * len(self.query_ids)
        columns: dict[str, Any] = {column: numbers.normal(0, 0.1, num) for column in CANDIDATES.names}
        columns |= {"query_id": np.repeat(self.query_ids, unit.num_rows), "shard": [unit.shard] * num}
        columns |= {"row": list(range(unit.num_rows)) * len(self.query_ids), "num_targets": [50] * num}
        columns |= {"document_id": [unit.etag] * num, "text_excerpt": ["def a_function_of_the_corpus():\n"] * num}
        counts_QK = np.full((len(self.query_ids), NUM_BINS + 2), unit.num_rows)
        receipt = UnitReceipt(unit.num_rows, 60 * unit.num_rows, 50 * unit.num_rows, time.monotonic() - started)
        ratio_RQ = columns["row_ratio"].reshape(len(self.query_ids), -1).T
        table = pa.table(columns, schema=CANDIDATES)
        publish_unit(self.job.score_uri(unit), self.query_ids, table, counts_QK, receipt, ratio_RQ)
        return UnitReceipt(receipt.num_rows, receipt.num_tokens, receipt.num_targets, time.monotonic() - started)


def peak_bytes(process: psutil.Process) -> int:
    """The most resident memory that a process has had so far (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure_corpus(folder: Path, times: Sequence[int], num_functions: int, strategy: str) -> dict[str, Any]:
    """Scan the corpus at each size; the strategy is set, lest the planner choose another one for a larger corpus."""
    from flows.demo import DemoSize, prepare_demo

    train = TrainSettings(vocab_size=1024, hidden_size=64, intermediate_size=172, num_layers=2, num_epochs=3)
    size = DemoSize(num_functions=num_functions, num_verbatim=8, num_renamed=8, num_clean=8, num_shards=4, train=train)
    prepare_demo(folder / "inputs", size)
    runs = {number: scan_times(folder, number, strategy) for number in times}
    small, large = runs[min(times)], runs[max(times)]
    return {
        "strategy": strategy,
        "time_over_linear": large["growing_seconds"] * min(times) / (small["growing_seconds"] * max(times)),
        **memory_growth(small, large),
        "runs": {str(number): run for number, run in runs.items()},
    }


def scan_times(folder: Path, times: int, strategy: str) -> dict[str, Any]:
    """One `finf scan` of the corpus repeated `times` times, watched from outside."""
    corpus, inputs = folder / f"corpus-x{times}", folder / "inputs"
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir()
    for copy in range(times):
        for shard in sorted((inputs / "corpus").iterdir()):
            shutil.copy(shard, corpus / f"{copy:03d}-{shard.name}")
    config = folder / f"x{times}.toml"
    config.write_text(CONFIG.format(model=inputs / "model", corpus=corpus, queries=inputs / "queries.parquet"))
    store = folder / f"store-x{times}"
    shutil.rmtree(store, ignore_errors=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "flows.cli", "scan", str(config), "--store", str(store), "--strategy", strategy]
    peaks, result = watch([*command, "--json"], {"PREFECT_HOME": str(folder / "prefect")})
    wall_seconds = time.monotonic() - started
    report = json.loads(storage.read_bytes(storage.join(result["run"], "report.json")))
    stages = {timing["stage"]: timing["seconds"] for timing in report["timings"]}
    growing_seconds = sum(seconds for stage, seconds in stages.items() if stage in READS_ALL)
    return {
        "num_rows": report["summary"]["num_rows"],
        "growing_seconds": growing_seconds,
        "start_up_seconds": wall_seconds - growing_seconds,
        "stages": stages,
        **peaks,
    }


def watch(command: Sequence[str], environment: Mapping[str, str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Run a command to its end; the peaks of its process and of the Ray actors below it, and its JSON result."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment)
    driver, peaks = psutil.Process(process.pid), {"coordinator": 0, "actor": 0}
    while process.poll() is None:
        try:
            peaks["coordinator"] = max(peaks["coordinator"], peak_bytes(driver))
            peaks["actor"] = max([peaks["actor"], *(peak_bytes(actor) for actor in actor_processes(driver.pid))])
        except (psutil.NoSuchProcess, OSError, StopIteration):  # gone while we looked
            continue
        time.sleep(0.25)
    text = process.stdout.read() if process.stdout else ""
    if process.returncode not in (0, 3):  # 3: leakage was found, and planted it was
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {f"{who}_peak_mib": peak / MIB for who, peak in peaks.items()}, json.loads(text.splitlines()[-1])


def measure_shards(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Each size in a process of its own, so that peaks are of that size alone."""
    runs = {}
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.growth", "--simulate", str(size), "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
        runs[size] = json.loads(done.stdout.splitlines()[-1])
    small, large = runs[min(sizes)], runs[max(sizes)]
    added_mib = large["coordinator_peak_mib"] - small["coordinator_peak_mib"]
    return {
        "orchestration_ms_per_shard": large["orchestration_ms_per_shard"],
        "with_publishing_ms_per_shard": large["with_publishing_ms_per_shard"],
        "coordinator_bytes_per_shard": added_mib * MIB / max(1, max(sizes) - min(sizes)),
        **memory_growth(small, large),
        "runs": {str(size): run for size, run in runs.items()},
    }


def memory_growth(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """Peaks of the large run over those of the small one."""
    growth = {who: large[f"{who}_peak_mib"] / small[f"{who}_peak_mib"] for who in ("coordinator", "actor")}
    return {
        "memory_growth": max(growth.values()),
        "coordinator_memory_growth": growth["coordinator"],
        "actor_memory_growth": growth["actor"],
    }


class ListeningPool(ActorPool):
    """Adds up what the actors say that they needed."""

    actor_seconds = 0.0

    def map(self, method: str, units: Iterable[U]) -> Generator[tuple[U, Any], None, None]:
        for unit, receipt in super().map(method, units):
            if isinstance(receipt, UnitReceipt):
                self.actor_seconds += receipt.seconds
            yield unit, receipt


class Stopwatch:
    """Seconds and peak memory of this process, stage by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.peaks_mib = {"imports": peak_bytes(psutil.Process()) / MIB}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started, cpu_started = time.monotonic(), time.process_time()
        yield
        self.seconds[name] = time.monotonic() - started
        self.cpu_seconds[name] = time.process_time() - cpu_started
        self.peaks_mib[name] = peak_bytes(psutil.Process()) / MIB


def simulate(folder: Path, num_shards: int) -> dict[str, Any]:
    """The stages of a scan over many tiny shards, in this process, without a model."""
    import flows.scan  # noqa: F401  the process of a real run has all that in memory

    spec, options = write_many_shards(folder, num_shards), RunOptions(store=str(folder / "store"), pool=POOL)
    watch = Stopwatch()
    with watch.stage("resolve inputs"):
        job = resolve_inputs(spec, options)
    publish_updates(job)
    with ListeningPool(ReadyScorer, (job,), options.pool) as pool, ProgressBar() as bar:
        start_actors(pool)
        with watch.stage("pending"):  # asked by the flow: is there anything to do?
            pending_units(job)
        with watch.stage("score shards"):
            score_shards(job, pool, Meter(bar))
        actor_peaks = [peak_bytes(actor) / MIB for actor in actor_processes()]
    with watch.stage("aggregate"):
        aggregate(job)
    counted, publishing = sum(watch.seconds.values()), pool.actor_seconds / NUM_ACTORS
    return {
        "num_shards": num_shards,
        "seconds": watch.seconds,
        "cpu_seconds": watch.cpu_seconds,
        "publishing_seconds": publishing,
        "orchestration_ms_per_shard": 1000 * (counted - publishing) / num_shards,
        "with_publishing_ms_per_shard": 1000 * counted / num_shards,
        "coordinator_peaks_mib": watch.peaks_mib,
        "coordinator_peak_mib": max(watch.peaks_mib.values()),
        "actor_peak_mib": max(actor_peaks),
    }


def write_many_shards(folder: Path, num_shards: int) -> ScanSpec:
    """Copies of one small Parquet file, a few queries, and a tiny model for its digest; nothing older stays."""
    corpus = folder / f"corpus-{num_shards}"
    for stale in (corpus, folder / "store"):
        shutil.rmtree(stale, ignore_errors=True)
    corpus.mkdir(parents=True)
    texts = [f"def function_{row}():\n    return {row}\n" for row in range(SHARD_ROWS)]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"document_id": [f"document-{row}" for row in range(SHARD_ROWS)], "text": texts}), buffer)
    shard = buffer.getvalue().to_pybytes()
    for number in range(num_shards):
        (corpus / f"shard-{number:06d}.parquet").write_bytes(shard)
    storage.publish_table(
        str(folder / "queries.parquet"), pa.table({"text": [f"query {q}" for q in range(NUM_QUERIES)]})
    )
    train_model(texts, folder / "model", TINY, lambda share, line: None)
    return ScanSpec(
        name="growth",
        model=ModelSpec(path=str(folder / "model")),
        corpus=CorpusSpec(path=str(corpus), id_column="document_id"),
        queries=QueriesSpec(path=str(folder / "queries.parquet")),
        rank=RankSpec(top_k=TOP_K),
    )


def publish_updates(job: ScanJob) -> None:
    """The numbers of the updates, which the verdicts want."""
    update = MirroredUpdate({}, "ascent", "forward", base_nats=100.0, num_targets=50, moved_nats=0.1, step_size=1.0)
    for query in read_queries(job.queries_uri):
        publish_update(job.updates_uri, query.digest, update)


def start_actors(pool: ActorPool) -> None:
    """Until every actor has answered once."""
    seen: set[int] = set()
    while len(seen) < NUM_ACTORS:
        seen |= {process for _, process in pool.map("process", range(NUM_ACTORS))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("corpus", "shards", "all"), default="all")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    parser.add_argument(
        "--functions", type=int, default=1984, help="of the corpus times 1; 16 planted rows come on top"
    )
    parser.add_argument("--strategy", default="one_pass", help="of the scans: every_query, one_pass or grouped")
    parser.add_argument("--shards", type=int, nargs="+", default=NUM_SHARDS)
    parser.add_argument("--folder", type=Path, help="a place for some gigabytes; default: a temporary one")
    parser.add_argument("--simulate", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_environment()
    if arguments.simulate:
        print(json.dumps(simulate(arguments.folder, arguments.simulate)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        parts: dict[str, Any] = {}
        if arguments.part != "shards":
            parts["corpus"] = measure_corpus(
                folder / "corpus", arguments.times, arguments.functions, arguments.strategy
            )
        if arguments.part != "corpus":
            parts["shards"] = measure_shards(folder / "shards", arguments.shards)
    figures = ("time_over_linear", "orchestration_ms_per_shard")
    found = {name: part[name] for part in parts.values() for name in figures if name in part}
    found |= {f"{name}_memory_growth": part["memory_growth"] for name, part in parts.items()} | parts
    print(json.dumps(found, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
