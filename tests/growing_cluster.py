"""A Ray cluster on this machine that starts nodes when actors ask for a place, and gives them back when idle.

The nodes are processes on loopback (Ray's own provider for tests); the autoscaler that decides is the real one.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from s3_server import free_ports

RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS = 60
AUTOSCALER = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "OMP_NUM_THREADS": "1", "RAY_FAKE_CLUSTER": "1"}
PROVIDER = {
    "type": "fake_multinode",
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "foreground_node_launch": True,
    "use_node_id_as_ip": True,
    "worker_liveness_check": False,
}


def autoscaling(address: str, max_nodes: int) -> dict[str, object]:
    """The autoscaler's config: nodes of one CPU, none of them when nobody works."""
    empty = {name: [] for name in ("initialization_commands", "setup_commands", "head_setup_commands")}
    empty |= {name: [] for name in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")}
    empty |= {name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    return empty | {
        "cluster_name": "growing",
        "max_workers": max_nodes,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "provider": PROVIDER | {"gcs_address": address},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 1, "object_store_memory": 80_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": max_nodes,
            },
        },
    }


class GrowingCluster:
    """A head without a CPU, and the autoscaler."""

    def __init__(self, folder: Path, max_nodes: int) -> None:
        self.folder = folder
        port, client, dashboard = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self.settings = {  # of whoever talks to it
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # conftest says 0: one node only
        }
        config = folder / "autoscaling.json"
        config.write_text(json.dumps(autoscaling(self.address, max_nodes)))
        self.command = [RAY, "start", "--head", "--block", "--num-cpus=0", f"--autoscaling-config={config}"]
        self.command += [f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-port={dashboard}"]
        self.command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=80000000"]
        self.command += [f"--temp-dir={folder / 'ray'}", "--min-worker-port=0", "--max-worker-port=0"]

    def num_nodes(self) -> int:
        """With the head."""
        return sum("/raylet/raylet" in each.info["cmdline"][0] for each in self._processes())

    def answers(self) -> bool:
        command = [RAY, "health-check", "--address", self.address]
        return subprocess.run(command, env=os.environ | self.settings, capture_output=True).returncode == 0

    def end(self, head: subprocess.Popen[bytes]) -> None:
        """The nodes that the autoscaler started are no children of the head's command."""
        head.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(self._processes(), timeout=10)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        head.wait(20)

    def _processes(self) -> list[psutil.Process]:
        every = psutil.process_iter(["cmdline"])
        return [each for each in every if any(str(self.folder) in word for word in each.info["cmdline"] or [])]


@contextmanager
def growing_cluster(max_nodes: int) -> Iterator[GrowingCluster]:
    with tempfile.TemporaryDirectory(prefix="finf-grow-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        cluster = GrowingCluster(Path(name), max_nodes)
        log = cluster.folder / "head.log"
        with log.open("wb") as file:
            head = subprocess.Popen(
                cluster.command,
                env=os.environ | cluster.settings | AUTOSCALER,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        stack.callback(cluster.end, head)
        deadline = time.monotonic() + START_SECONDS
        while not (cluster.num_nodes() and cluster.answers()):
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-3000:])
            time.sleep(0.5)
        yield cluster
