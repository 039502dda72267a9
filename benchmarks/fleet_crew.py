"""What an answer costs the process that hands out units, by the number of seats of its crew. Measured.

The crew is the real one (`tasks.actor_crew`), on a real Ray: `ray.wait` over all seats, `ray.get`, a new call. A
machine of two cores has no room for 512 processes, so the seats share a few, which do a unit each in a thread of its
own; what the crew does for an answer is the same. Units are naps so short that some answer always waits: then the
seconds of the whole, over the answers, are those of the coordinator (beside what the few processes take from its core).
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.actor_plan import PoolOptions
from tasks.budget import Budget
from tasks.orders import Orders
from tasks.ray_cluster import connect, disconnect
from tasks.work_queue import WorkQueue

NUM_PROCESSES = 2
NUM_ANSWERS = 4_000
NAP_SECONDS = 0.0005
ROUNDS = 3
OBJECT_STORE_BYTES = 100_000_000
ROOT = Path(__file__).parent.parent


class Napper:
    def ping(self) -> str:
        return "ready"

    def nap(self, number: int) -> int:
        time.sleep(NAP_SECONDS)
        return number


def measure_answers(seats: Sequence[int]) -> list[dict[str, float]]:
    """Each number of seats some times, in a process of its own; the quickest, for the machine may have other work."""
    return [
        min((_in_a_process(each, NUM_ANSWERS) for _ in range(ROUNDS)), key=lambda found: found["ms_per_answer"])
        for each in seats
    ]


def _in_a_process(num_seats: int, num_answers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.fleet_crew", str(num_seats), str(num_answers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def time_answers(num_seats: int, num_answers: int) -> dict[str, float]:
    connect("local", OBJECT_STORE_BYTES)
    crew = _shared_crew(num_seats)
    orders = Orders[int]("nap", may_give_up=False, after_deaths=lambda unit, _: unit)
    for _ in crew.stream(orders, WorkQueue(range(2 * num_seats))):  # until all seats are built
        pass
    answers = crew.stream(orders, WorkQueue(range(num_answers)))
    next(answers)
    started, cpu_started = time.perf_counter(), time.thread_time()
    num_done = sum(1 for _ in answers)
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - cpu_started
    disconnect()
    return {
        "seats": num_seats,
        "ms_per_answer": 1000 * seconds / num_done,
        "cpu_ms_per_answer": 1000 * cpu_seconds / num_done,
    }


def _shared_crew(num_seats: int) -> Any:
    """A crew whose seats share `NUM_PROCESSES` processes."""
    import ray  # not before `connect` has set its environment

    from tasks.actor_crew import ActorCrew
    from tasks.actor_host import ActorHost

    host = ray.remote(ActorHost).options(num_cpus=0, max_concurrency=num_seats)
    processes = [host.remote() for _ in range(min(NUM_PROCESSES, num_seats))]

    class SharedCrew(ActorCrew):
        num_taken = 0

        def _new_actor(self) -> Any:
            self.num_taken += 1
            return processes[self.num_taken % len(processes)]

    options = PoolOptions(num_actors=num_seats, num_cpus_per_actor=0.001)
    return SharedCrew(Napper, (), options, lambda told: None, Budget())


if __name__ == "__main__":
    print(json.dumps(time_answers(*map(int, sys.argv[1:]))))
