"""The stack of deploy/compose.yaml as plain processes on loopback, by the commands that stand there.

Prefect on PostgreSQL, an S3 server, a Ray head and a worker that ask for a token, and finf on a third node that offers
nothing (deploy/on-ray-node.sh). What is left untried: containers, their limits, networks and volumes.
"""

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import scan_example
import yaml
from deploy_files import DEPLOY, ROOT, kustomized, one, tool
from postgres_server import Postgres, running_postgres
from prefect_server import running_prefect_server
from s3_server import free_ports

SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
START_SECONDS = 60
# What several nodes on one machine want, and one of several clusters beside them: ports that are free, little memory.
SHARED_OPTIONS = [
    "--node-ip-address=127.0.0.1",
    "--object-store-memory=80000000",
    "--min-worker-port=0",
    "--max-worker-port=0",
]


def command_of(service: str, replaced: dict[str, str]) -> list[str]:
    """As compose would run it, with other addresses."""
    words = [*SERVICES[service]["entrypoint"], *SERVICES[service]["command"]]
    text = json.dumps(words)
    for before, after in replaced.items():
        text = text.replace(before, after)
    found: list[str] = json.loads(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return [tool(found[0]) if found[0] in ("ray", "finf") else str(DEPLOY / found[0]), *found[1:]]


class RayCluster:
    """Nodes of one cluster on one machine, each on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "token").write_text(f"{secrets.token_hex(32)}\n")
        self.port, self.dashboard, self._client, *ports = map(str, free_ports(9))
        self.address = f"127.0.0.1:{self.port}"
        self.agent_and_metrics = dict(
            zip(("ray-head", "ray-worker", "finf"), zip(ports[::2], ports[1::2], strict=True), strict=True)
        )
        self.environment = os.environ | {
            "RAY_AUTH_MODE": SERVICES["ray-head"]["environment"]["RAY_AUTH_MODE"],
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # conftest says 0: one node only
            "OMP_NUM_THREADS": "1",
            "RAY_metrics_report_interval_ms": "500",  # in place of ten seconds, which the scan does not last
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(DEPLOY), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def start(self, service: str) -> subprocess.Popen[bytes]:
        agent, metrics = self.agent_and_metrics[service]
        moved = {"ray-head:6379": self.address, "--metrics-export-port=8080": f"--metrics-export-port={metrics}"}
        options = [*SHARED_OPTIONS, f"--dashboard-agent-listen-port={agent}"]
        if service == "ray-head":
            moved |= {
                "--port=6379": f"--port={self.port}",
                "--dashboard-port=8265": f"--dashboard-port={self.dashboard}",
            }
            moved |= {"--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1"}
            options += [f"--temp-dir={self.folder / 'ray'}", f"--ray-client-server-port={self._client}"]
        command = [*command_of(service, moved), *options]
        with self.log(service).open("wb") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)

    def wait(self, service: str, process: subprocess.Popen[bytes]) -> None:
        """Until what the compose file asks of this service answers."""
        urls = SERVICES[service]["environment"]["FINF_ALIVE_URLS"]
        urls = urls.replace("52365", self.agent_and_metrics[service][0]).replace("8265", self.dashboard)
        command = [sys.executable, str(DEPLOY / "alive.py"), *urls.split()]
        deadline = time.monotonic() + START_SECONDS
        while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{done.stderr}\n{self.log(service).read_text()[-3000:]}")
            time.sleep(0.2)


@contextmanager
def stopped_in_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running_ray_cluster() -> Iterator[RayCluster]:
    with tempfile.TemporaryDirectory(prefix="finf-stack-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        cluster = RayCluster(Path(name))
        for service in ("ray-head", "ray-worker"):
            process = cluster.start(service)
            stack.enter_context(stopped_in_the_end(process))
            cluster.wait(service, process)
        yield cluster


@contextmanager
def running_prefect_on_postgres(home: Path) -> Iterator[tuple[str, Postgres]]:
    """The server of the compose file, with its settings."""
    with running_postgres() as database:
        given = {name: str(value) for name, value in SERVICES["prefect"]["environment"].items()}
        url = re.sub(r"\$\{[^}]*\}", database.password, given["PREFECT_SERVER_DATABASE_CONNECTION_URL"])
        settings = {
            "PREFECT_SERVER_METRICS_ENABLED": given["PREFECT_SERVER_METRICS_ENABLED"],
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.replace("postgres:5432", f"127.0.0.1:{database.port}"),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "pages"),
        }
        with running_prefect_server(home, more_settings=settings) as api:
            yield api, database


def read(url: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: bytes = answer.read()
        return found


def scan(
    cluster: RayCluster, config: Path, store: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """`finf scan` on a node that offers nothing, as the service `finf` of the compose file runs there."""
    agent, metrics = cluster.agent_and_metrics["finf"]
    script, _ = SERVICES["finf"]["entrypoint"]
    flags = ["--store", store, "--ray-address", cluster.address, "--batch-tokens", "1024", "--json"]
    return subprocess.run(
        [str(DEPLOY / script), cluster.address, tool("finf"), "scan", str(config), *flags],
        env=cluster.environment
        | environment
        | {
            "RAY_AGENT_PORT": agent,
            "RAY_METRICS_PORT": metrics,
            "RAY_START_OPTIONS": " ".join(SHARED_OPTIONS),
        },
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=240,
    )


def wait_for_metric(name: str, port: str) -> None:
    """A node first tells of itself some seconds after it has started."""
    deadline = time.monotonic() + START_SECONDS
    while f"\n{name}{{".encode() not in read(f"http://127.0.0.1:{port}/metrics"):
        assert time.monotonic() < deadline, f"no {name} at port {port}"
        time.sleep(0.3)


class Scraper(threading.Thread):
    """Reads the nodes' metrics again and again, as Prometheus does: names of finf and the largest value of each.

    All nodes have one address here, and which of them Ray takes for the driver's is not said.
    """

    def __init__(self, cluster: RayCluster) -> None:
        super().__init__(daemon=True)
        self.ports = [metrics for _, metrics in cluster.agent_and_metrics.values()]
        self.largest: dict[str, float] = {}
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.3):
            for port in self.ports:
                with suppress(OSError):
                    self._keep(read(f"http://127.0.0.1:{port}/metrics").decode())

    def _keep(self, text: str) -> None:
        for name, value in re.findall(r"^(ray_finf_\w+)\{.*\} (\S+)$", text, re.MULTILINE):
            self.largest[name] = max(float(value), self.largest.get(name, 0.0))


def submit_job(
    cluster: RayCluster, config: Path, store: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """The entrypoint of the RayJob as KubeRay's submitter has it run: by the head, which has no CPU to offer."""
    job = one(kustomized(DEPLOY / "kubernetes" / "job"), "RayJob")["spec"]["entrypoint"]
    entrypoint = job
    for there, here in (
        ("/etc/finf/finf.toml", str(config)),
        ("s3://bucket/runs", store),
        ("--actors 8 --gpus-per-actor 1", "--batch-tokens 1024"),
    ):
        assert entrypoint.count(there) == 1
        entrypoint = entrypoint.replace(there, here)
    runtime = shlex.quote(json.dumps({"env_vars": environment}))
    submit = (
        f"ray job submit --address http://127.0.0.1:{cluster.dashboard} --runtime-env-json {runtime} -- {entrypoint}"
    )
    return subprocess.run(
        ["bash", "-ce", "--", f"if true ; then {submit} ; fi"],  # as the operator writes it
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_stack_scans_with_prefect_on_postgres_the_store_on_s3_and_a_cluster_that_asks_for_a_token(
    s3_bucket: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    corpus = scan_example.write_shards(f"{s3_bucket}/corpus", scan_example.corpus_texts(), num_shards=4)
    queries = scan_example.write_queries(f"{s3_bucket}/queries.parquet")
    config = tmp_path / "finf.toml"
    config.write_text(scan_example.CONFIG.format(model=tiny_checkpoint, corpus=corpus, queries=queries))
    with ExitStack() as stack, ThreadPoolExecutor(1) as beside:
        prefect = beside.submit(stack.enter_context, running_prefect_on_postgres(tmp_path))
        cluster = stack.enter_context(running_ray_cluster())
        api, database = prefect.result()
        driver = {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "home")}

        with pytest.raises(urllib.error.HTTPError, match="401"):
            read(f"http://127.0.0.1:{cluster.dashboard}/api/version")
        for _, metrics in list(cluster.agent_and_metrics.values())[:2]:
            wait_for_metric("ray_node_mem_used", metrics)

        scraper = Scraper(cluster)
        scraper.start()
        done = scan(cluster, config, f"{s3_bucket}/runs", driver)
        scraper.is_over.set()
        assert done.returncode == 3, done.stderr[-3000:]  # leakage was found
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["run"].startswith(f"{s3_bucket}/runs/scan-example-")
        assert result["num_leaked"] == 1
        assert scraper.largest["ray_finf_rows_total"] == scraper.largest["ray_finf_rows_planned"] == 96
        assert scraper.largest["ray_finf_tokens_total"] > 1000

        assert database.ask("select state_type from flow_run") == "COMPLETED"
        (run,) = json.loads(read(f"{api}/flow_runs/filter", {}))
        assert run["state"]["type"] == "COMPLETED"
        assert b"# TYPE" in read(f"{api}/metrics")
        assert b"<html" in read(f"{api.removesuffix('/api')}/")
        assert list((tmp_path / "pages").iterdir()) != []

        submitted = submit_job(cluster, config, f"{s3_bucket}/jobs", driver)
        assert submitted.returncode == 0, submitted.stdout[-3000:]  # 3 is a result, no failure to be tried again
        assert '"num_leaked": 1' in submitted.stdout
        assert database.ask("select state_type from flow_run").splitlines() == ["COMPLETED"] * 2
