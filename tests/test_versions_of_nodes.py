"""A cluster whose nodes have other versions than the driver is refused in one line: their numbers are no one result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finf_core.errors import InputError
from tasks import actor_crew
from tasks.actor_host import PACKAGES, ActorHost, versions
from tasks.actor_pool import ActorPool, PoolOptions

JOIN = """
import os
import ray
from finf_core.errors import InputError
from tasks.ray_cluster import connect
ray.__version__ = "2.1.0"
try:
    connect(os.environ["FINF_RAY_ADDRESS"], 1)
except InputError as error:
    print(error)
"""


class Worker:
    def ping(self) -> None: ...

    def double(self, number: int) -> int:
        return 2 * number


@pytest.mark.parametrize("package", PACKAGES)
def test_a_node_with_another_version_of_a_package_builds_nothing_and_names_both(package: str) -> None:
    ActorHost().build(versions(), Worker, ())
    with pytest.raises(InputError, match=rf"has {package} {versions()[package]}, the driver 9\.9: "):
        ActorHost().build(versions() | {package: "9.9"}, Worker, ())


def test_a_pool_ends_with_the_line_of_such_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(actor_crew, "versions", lambda: versions() | {"torch": "9.9"})
    with ActorPool(Worker, (), PoolOptions(num_actors=1)) as pool, pytest.raises(InputError, match=r"the driver 9\.9"):
        list(pool.map("double", [1]))


def test_a_cluster_of_another_ray_is_one_line(ray_settings: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", JOIN], env=os.environ | ray_settings, capture_output=True, text=True)
    [line] = done.stdout.splitlines()
    assert line.startswith(f"--ray-address {ray_settings['FINF_RAY_ADDRESS']}: Version mismatch: ")
    assert "2.1.0" in line
