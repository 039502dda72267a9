"""A machine of the cluster is lost: a second raylet on loopback, killed while it works."""

import os
import subprocess
import sys
from pathlib import Path

from faults import fault

TESTS = Path(__file__).parent

# A program of its own: a Ray cluster and a driver of it cannot share a process with the Ray of other tests.
LOSE_A_NODE = """
import os, sys, threading, time
from collections import Counter
from pathlib import Path

from flows.environment import set_environment
set_environment()
import ray
from ray.cluster_utils import Cluster

from pool_actors import Worker
from tasks.actor_pool import ActorPool, PoolOptions

folder = Path(sys.argv[1])
loopback = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args=loopback | {"include_dashboard": False})
second = cluster.add_node(**loopback)
cluster.wait_for_nodes()
told = []
options = PoolOptions(num_actors=2, num_cpus_per_actor=1, ray_address=cluster.address)
with ActorPool(Worker, (str(folder),), options, told.append) as pool:
    stream = pool.map("mark_slowly", range(60))
    done = [next(stream) for _ in range(10)]
    places = {result for _, result in done}
    assert len(places) == 2, places  # both nodes work
    cluster.remove_node(second, allow_graceful=False)
    done += list(stream)
units = Counter(unit for unit, _ in done)
assert set(units) == set(range(60)), sorted(set(range(60)) - set(units))
assert set(units.values()) == {1}
assert len({result for _, result in done[-10:]}) == 1  # one node is left
cluster.shutdown()
print("told:", *told, sep=chr(10))
"""


def test_a_node_that_is_lost_costs_the_units_in_flight_and_no_more(tmp_path: Path) -> None:
    with fault("a Ray node lost"):
        done = subprocess.run(
            [sys.executable, "-c", LOSE_A_NODE, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "an actor died at work" in done.stdout
