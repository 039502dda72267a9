"""Many small things at once: a million rows in ten thousand shards, or ten thousand queries, through `finf scan`.

    python -m benchmarks.load rows [--rows 1000000] [--shards 10000] [--json]
    python -m benchmarks.load queries [--queries 10000] [--rows 2000] [--json]

Reports the seconds of every stage, the peak resident memory of the flow's process and of its largest actor, the size
of the report, and whether every row was counted once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.environment import set_environment

set_environment()

import psutil  # noqa: E402

from benchmarks.actor_processes import actor_processes  # noqa: E402
from benchmarks.small_scan import train_tiny, write_corpus, write_queries  # noqa: E402
from tasks import storage  # noqa: E402

LOOK_SECONDS = 0.5
FINF = str(Path(sys.executable).parent / "finf")
CONFIG = """
name = "load"
[model]
path = "{model}"
context_tokens = 48
overlap_tokens = 8
[corpus]
path = "{corpus}"
id_column = "id"
[queries]
path = "{queries}"
target = "{{answer}}"
[update]
curvature_rows = 64
"""


def run(folder: Path, num_rows: int, num_shards: int, num_words: tuple[int, int], num_queries: int) -> dict[str, Any]:
    corpus = write_corpus(folder / "corpus", num_rows, num_shards, num_words)
    queries = write_queries(folder / "queries.parquet", num_queries)
    config = folder / "scan.toml"
    config.write_text(CONFIG.format(model=train_tiny(folder / "model"), corpus=corpus, queries=queries))
    command = [FINF, "scan", str(config), "--store", str(folder / "store"), "--actors", "2", "--json"]
    started = time.monotonic()
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
        peaks = _peaks(process)
    report_uri = json.loads((folder / "out").read_text().splitlines()[-1])["run"]
    return _outcome(report_uri, num_rows) | {"seconds": round(time.monotonic() - started, 1)} | peaks


def _peaks(process: "subprocess.Popen[bytes]") -> dict[str, float]:
    """Until it ends."""
    own = actor = 0
    while process.poll() is None:
        with suppress(psutil.Error):
            own = max(own, psutil.Process(process.pid).memory_info().rss)
            actor = max([actor, *(each.memory_info().rss for each in actor_processes(process.pid))])
        time.sleep(LOOK_SECONDS)
    return {
        "flow_peak_mib": round(own / 2**20),
        "actor_peak_mib": round(actor / 2**20),
        "exit_code": process.returncode,
    }


def _outcome(run_uri: str, num_rows: int) -> dict[str, Any]:
    report = json.loads(storage.read_bytes(storage.join(run_uri, "report.json")))
    counted = [
        sum(counts)
        for counts in storage.read_table(storage.join(run_uri, "queries.parquet"))["ratio_counts"].to_pylist()
    ]
    return {
        "strategy": report["strategy"]["spec"]["kind"],
        "rows": report["summary"]["num_rows"],
        "every_row_counted_once": set(counted) == {num_rows},
        "leaked": report["summary"]["num_leaked"],
        "report_mib": round(Path(run_uri, "report.html").stat().st_size / 2**20, 1),
        "stages": {timing["stage"]: round(timing["seconds"], 1) for timing in report["timings"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rows", "queries"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finf-load-") as folder:
        if options.what == "rows":
            found = run(Path(folder), options.rows or 1_000_000, options.shards, (3, 6), 4)
        else:
            found = run(Path(folder), options.rows or 2000, 20, (4, 30), options.queries)
    print(json.dumps(found) if options.json else "\n".join(f"{key:24} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
