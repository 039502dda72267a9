"""A Ray cluster of this machine that outlives a run: runs that do not care whose it is need not start one each."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLUSTER = """
import sys
from flows.environment import set_environment
set_environment()
from tasks.ray_cluster import connect, disconnect
connect("local", 200_000_000)
import ray
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
disconnect()
"""


@contextmanager
def running_ray_head() -> Iterator[dict[str, str]]:
    """Yields what `finf` finds it by in its environment. It ends with its input, so also when the tests are killed."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    tests = {"PYTHONPATH": str(Path(__file__).parent)}  # models of the tests' own
    head = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=os.environ | token | tests,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with head:
        assert head.stdin is not None
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        if not address:
            raise RuntimeError("Ray did not start")
        yield token | {"FINF_RAY_ADDRESS": address}
        head.stdin.close()
