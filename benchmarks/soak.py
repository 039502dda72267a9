"""Half an hour of scoring while actors are killed at random: does anything grow, leak, get lost or counted twice?

    python -m benchmarks.soak [--minutes 30] [--kill-every 20] [--json]

A small corpus is scored anew, pass after pass, by the real pool on real Ray actors, of which one is killed every so
many seconds. After each pass every row is counted. Memory, threads, open files and processes are looked at every five
seconds; what is reported is their level at the end of the first quarter and in the last one.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.environment import set_environment

set_environment()

import psutil  # noqa: E402

from benchmarks.actor_processes import actor_processes  # noqa: E402
from benchmarks.small_scan import small_scan  # noqa: E402
from tasks import storage  # noqa: E402
from tasks.actor_pool import ActorPool, PoolOptions  # noqa: E402
from tasks.aggregate import aggregate  # noqa: E402
from tasks.job import ScanJob  # noqa: E402
from tasks.progress import Meter  # noqa: E402
from tasks.score_shards import score_shards  # noqa: E402
from tasks.shard_scorer import ShardScorer  # noqa: E402

LOOK_SECONDS = 5.0
LEVELS = ("coordinator_mib", "largest_actor_mib", "threads", "open_files", "processes")


@dataclass(frozen=True)
class Look:
    """At this process and all below it."""

    seconds: float
    coordinator_mib: float
    largest_actor_mib: float
    threads: int  # of this process, as the next
    open_files: int
    processes: int


class Watch:
    """Looks at the processes, and kills an actor now and then, until it is closed."""

    def __init__(self, kill_every_seconds: float) -> None:
        self.looks: list[Look] = []
        self.num_killed = 0
        self._kill_every_seconds = kill_every_seconds
        self._started = time.monotonic()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._look_on, self._kill_on)]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.looks.append(look(time.monotonic() - self._started))

    def _kill_on(self) -> None:
        draw = random.Random(0)
        while not self._over.wait(draw.uniform(0.5, 1.5) * self._kill_every_seconds):
            if actors := actor_processes():
                draw.choice(actors).kill()
                self.num_killed += 1


def look(seconds: float) -> Look:
    own = psutil.Process()
    actors = [0.0]
    for process in actor_processes():
        with suppress(psutil.Error):
            actors.append(process.memory_info().rss / 2**20)
    return Look(
        seconds=seconds,
        coordinator_mib=own.memory_info().rss / 2**20,
        largest_actor_mib=max(actors),
        threads=own.num_threads(),
        open_files=own.num_fds(),
        processes=len(own.children(recursive=True)),
    )


def one_pass(job: ScanJob, pool: ActorPool) -> tuple[Counter[tuple[str, str]], int]:
    """Score all rows anew; how often each is listed for each query, and how many the first query's histogram counts."""
    for folder in [job.scores_uri, *Path(job.store, "cache").glob("base-*")]:
        shutil.rmtree(folder, ignore_errors=True)
    score_shards(job, pool, Meter())
    aggregate(job)
    top = storage.read_table(job.file("top.parquet"))
    counted = storage.read_table(job.file("queries.parquet"))["ratio_counts"][0].as_py()
    return Counter(zip(top["query_id"].to_pylist(), top["document_id"].to_pylist(), strict=True)), sum(counted)


def level(looks: list[Look], first: float, last: float) -> dict[str, float]:
    """Medians of a part of the time."""
    chosen = looks[int(first * len(looks)) : max(1, int(last * len(looks)))]
    return {name: round(statistics.median(getattr(each, name) for each in chosen), 1) for name in LEVELS}


def soak(minutes: float, kill_every_seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="finf-soak-") as folder:
        scan = small_scan(Path(folder), num_rows=2000, num_shards=40)
        lost = doubled = num_passes = num_rows = 0
        with ActorPool(ShardScorer, (scan.job,), PoolOptions(num_actors=2)) as pool:
            job = scan.prepare(pool)
            wanted, _ = one_pass(job, pool)
            deadline = time.monotonic() + 60 * minutes
            with Watch(kill_every_seconds) as watch:
                while time.monotonic() < deadline:
                    found, counted = one_pass(job, pool)
                    lost += len(wanted.keys() - found.keys()) + max(0, scan.num_rows - counted)
                    doubled += sum(times - 1 for times in found.values()) + max(0, counted - scan.num_rows)
                    num_passes, num_rows = num_passes + 1, num_rows + scan.num_rows

        time.sleep(5)
        left = len(actor_processes())
        quarter, end = level(watch.looks, 0.2, 0.3), level(watch.looks, 0.9, 1.0)
        return {
            "minutes": minutes,
            "passes": num_passes,
            "rows_scored": num_rows,
            "actors_killed": watch.num_killed,
            "rows_lost": lost,
            "rows_doubled": doubled,
            "actors_left": left,
            "at_a_quarter": quarter,
            "at_the_end": end,
            "looks": [asdict(each) for each in watch.looks[:: max(1, len(watch.looks) // 30)]],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = soak(options.minutes, options.kill_every)
    if options.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:16} {value}")


if __name__ == "__main__":
    main()
