"""What the process that hands out units holds of a corpus of so many shards, one unit each. Measured: really held.

    python -m benchmarks.fleet_state 10000000

The shards as `tasks.resolve_inputs` holds them, the record of them as scoring holds it, the names of finished units as
`tasks.query_sets.Coverage` does, and those a second time, as during a look at the store while the old ones are in use.
What the listing itself takes is not in it: see `benchmarks.fleet_store`.
"""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa

from benchmarks.growth import peak_bytes
from tasks.corpus import Shard, plan_units, shards_from_table, shards_table
from tasks.resolve_inputs import digest_shards

ROOT = Path(__file__).parent.parent
FINGERPRINT = "f" * 64
GROUP_ROWS = 1_000


def measure_state(num_units: int) -> dict[str, Any]:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fleet_state", str(num_units)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def hold_state(num_units: int) -> dict[str, Any]:
    process = psutil.Process()
    before, seconds, held = process.memory_info().rss, {}, {}

    def note(what: str, started: float) -> None:
        seconds[what] = time.process_time() - started
        held[what] = process.memory_info().rss - before

    started = time.process_time()
    shards = list(_shards(num_units))
    note("shards", started)
    started = time.process_time()
    digest_shards(shards)
    table = shards_table(shards)
    note("shards and their record", started)
    del shards
    gc.collect()
    pa.default_memory_pool().release_unused()
    started = time.process_time()
    num_planned = sum(1 for _ in plan_units(shards_from_table(table)))
    note("record, units planned one by one", started)
    started = time.process_time()
    finished = {unit.name(FINGERPRINT) for unit in plan_units(shards_from_table(table))}
    note("record and names of finished units", started)
    started = time.process_time()
    looked = {(name + " ")[:-1] for name in finished}
    note("record and names, twice", started)
    assert num_planned == len(finished) == len(looked) == num_units
    naming = seconds["record and names of finished units"]
    return {
        "num_units": num_units,
        "cpu_seconds": seconds,
        "held_bytes": held,
        "peak_bytes": peak_bytes(process),
        "name_ms_per_unit": 1000 * naming / num_units,
    }


def _shards(num_units: int) -> Iterator[Shard]:
    for number in range(num_units):
        uri = f"s3://a-bucket/corpora/a-corpus/part-{number:08d}.parquet"
        yield Shard(uri, 1_000_000 + number, f"{number:032x}", (GROUP_ROWS,))


if __name__ == "__main__":
    print(json.dumps(hold_state(int(sys.argv[1]))))
