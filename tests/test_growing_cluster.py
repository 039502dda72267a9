"""A run on a cluster that has no node to work on yet: it asks, waits, works, and leaves the nodes to be given back."""

import time
from pathlib import Path

from growing_cluster import growing_cluster
from test_scan import FOUND_LEAKAGE, run_finf, write_inputs


def test_a_scan_makes_a_cluster_grow_and_lets_it_shrink(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint, num_shards=4)
    with growing_cluster(max_nodes=2) as cluster:
        assert cluster.num_nodes() == 1
        done = run_finf(
            *("scan", str(config), "--store", str(tmp_path / "store")),
            *("--ray-address", cluster.address, "--actors", "2", "--cpus-per-actor", "1"),
            environment=finf_environment | cluster.settings,
        )
        assert done.returncode == FOUND_LEAKAGE, done.stderr
        assert cluster.num_nodes() > 1
        deadline = time.monotonic() + 60
        while cluster.num_nodes() > 1:
            assert time.monotonic() < deadline, "nodes that nobody uses are still there"
            time.sleep(1)
