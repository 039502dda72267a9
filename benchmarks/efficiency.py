"""How near a scan comes to the bare model: rows per second of `finf scan` over those of a loop with nothing round it.

The scan reads text from a real S3 server on loopback and writes its results there; every query is scored on every
row. Counted is its stage "score shards": from the first unit handed out to the last result stored. Start-up (Ray,
model, curvature, updates) is reported apart. The loop (`benchmarks.bare_loop`) holds the same rows as ready batches
in memory and runs as many forward passes, in as many processes of as many threads.
Both take turns, and each scan is compared with the mean of the loop before and after it.

python -m benchmarks.efficiency [--folder FOLDER] [--copies N] [--rounds N] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bare_loop import BareLoop
from flows.demo import DemoSize, prepare_demo
from flows.environment import set_environment
from tasks import storage

SIZE = DemoSize(num_verbatim=40, num_renamed=60, num_clean=64)
BUCKET = "s3://efficiency"
CONFIG = """\
name = "efficiency"
[model]
path = "{model}"
[corpus]
path = "{bucket}/corpus"
id_column = "document_id"
[queries]
path = "{bucket}/queries.parquet"
context = "{{prompt}}"
target = "{{canonical_solution}}"
id_column = "task_id"
limit = {num_queries}
[update]
curvature_rows = 128
"""


def measure(folder: Path, copies: int, rounds: int, num_queries: int, num_processes: int) -> dict[str, Any]:
    prepare_demo(folder, SIZE)
    num_threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
    loop = BareLoop(folder / "model", folder / "corpus", num_processes, num_threads)
    with _s3_corpus(folder, copies), loop:
        config = folder / "efficiency.toml"
        config.write_text(CONFIG.format(model=folder / "model", bucket=BUCKET, num_queries=num_queries))
        bare, scans = [loop.run(num_queries + 1)], []
        for number in range(rounds):
            scans.append(_scan(config, f"{BUCKET}/store-{number}", num_processes))
            bare.append(loop.run(num_queries + 1))
            _say(f"bare {bare[-2]:.1f}, scan {scans[-1]['rows_per_second']:.1f}, bare {bare[-1]:.1f} rows/s")
    ratios = [
        scan["rows_per_second"] / ((before + after) / 2)
        for scan, before, after in zip(scans, bare, bare[1:], strict=False)
    ]
    return {
        "efficiency": median(ratios),
        "efficiency_of_rounds": ratios,
        "scan_rows_per_second": median(scan["rows_per_second"] for scan in scans),
        "bare_rows_per_second": median(bare),
        "num_rows": scans[0]["num_rows"],
        "num_queries": num_queries,
        "num_passes": num_queries + 1,
        "num_processes": num_processes,
        "num_threads": num_threads,
        "filled_share": loop.filled_share,
        "scoring_seconds": [scan["scoring_seconds"] for scan in scans],
        "actors_busy_share": [scan["actors_busy_share"] for scan in scans],
        "other_seconds_of_first_scan": scans[0]["other_seconds"],
    }


@contextmanager
def _s3_corpus(folder: Path, copies: int) -> Iterator[None]:
    """A server of our own that holds the corpus so many times, and the environment in which finf finds it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from s3_server import running_s3_server  # the tests' own

    with running_s3_server() as server:
        os.environ |= {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }
        server.client().create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        for shard in sorted((folder / "corpus").glob("*.parquet")):
            for copy in range(copies):
                storage.publish_bytes(f"{BUCKET}/corpus/{copy:03d}-{shard.name}", shard.read_bytes())
        storage.publish_bytes(f"{BUCKET}/queries.parquet", (folder / "queries.parquet").read_bytes())
        yield


def _scan(config: Path, store: str, num_actors: int) -> dict[str, Any]:
    """One scan as a user starts it, in a store of its own: its actors are up when it comes to scoring."""
    finf = str(Path(sys.executable).parent / "finf")
    started = time.monotonic()
    where = ["--store", store, "--actors", str(num_actors)]
    command = [finf, "scan", str(config), *where, "--strategy", "every_query", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"finf scan failed: {done.stderr}")
    run_uri = json.loads(done.stdout.splitlines()[-1])["run"]
    report = json.loads(storage.read_bytes(f"{run_uri}/report.json"))
    totals = json.loads(storage.read_bytes(f"{run_uri}/totals.json"))
    [seconds] = [timing["seconds"] for timing in report["timings"] if timing["stage"] == "score shards"]
    return {
        "num_rows": totals["num_rows"],
        "scoring_seconds": seconds,
        "rows_per_second": totals["num_rows"] / seconds,
        "actors_busy_share": totals["actor_seconds"] / (seconds * num_actors),
        "other_seconds": time.monotonic() - started - seconds,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmark-runs/efficiency"), help="where inputs and model go"
    )
    parser.add_argument("--copies", type=int, default=2, help="of the demo's corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2, help="of the loop, and actors of the scan")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    set_environment()
    found = measure(given.folder.resolve(), given.copies, given.rounds, given.queries, given.processes)
    for key, value in {} if given.json else found.items():
        print(f"{key:28} {value}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
