"""deploy/prefect.yaml: known keys, times that come, parameters of the flow; deployed on a real server, and run."""

import copy
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_scan import write_inputs
from test_serve import ask

from finf_core.errors import InputError
from flows.scheduled import scheduled_run
from flows.serve import make_schedule

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy" / "prefect.yaml"
PREFECT = str(Path(sys.executable).parent / "prefect")
POOLS = ("process", "docker", "kubernetes")
KEYS = {
    "name",
    "description",
    "entrypoint",
    "work_pool",
    "tags",
    "schedules",
    "concurrency_limit",
    "parameters",
}


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]
    return found


def flaws(deployment: dict[str, Any]) -> list[str]:
    """What Prefect's own reader of the file lets pass."""
    known = inspect.signature(scheduled_run.fn).parameters
    found = [f"unknown key {key}" for key in deployment.keys() - KEYS]
    found += [f"unknown parameter {key}" for key in deployment["parameters"].keys() - known.keys()]
    if deployment["entrypoint"] != f"{scheduled_run.fn.__module__}.{scheduled_run.fn.__name__}":
        found.append("another flow")
    for schedule in deployment["schedules"]:
        try:
            make_schedule(schedule["cron"], None, schedule["timezone"])
        except InputError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_a_deployment_says_only_what_is_known_and_mistakes_in_it_are_found(number: int) -> None:
    deployment = deployments()[number]
    assert flaws(deployment) == []
    scheduled_run.validate_parameters(deployment["parameters"])
    for change in (
        lambda wrong: wrong.update(schedule=[]),
        lambda wrong: wrong["parameters"].update(actor=2),
        lambda wrong: wrong["schedules"][0].update(cron="61 * * * *"),
        lambda wrong: wrong.update(entrypoint="flows.scan.scan"),
    ):
        wrong = copy.deepcopy(deployment)
        change(wrong)
        assert flaws(wrong) != []


def test_versions_are_those_of_the_lock_and_of_the_package() -> None:
    version = yaml.safe_load(FILE.read_text())["prefect-version"]
    assert f"prefect=={version} " in (ROOT / "locks" / "run.txt").read_text()
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = [d["work_pool"]["job_variables"]["image"] for d in deployments() if "job_variables" in d["work_pool"]]
    assert images == [f"finf:{ours}-cpu"] * 2


def test_the_deployments_are_made_on_a_real_server_and_a_worker_runs_one(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str], prefect_url: str
) -> None:
    def prefect(*arguments: str) -> str:
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments],
            env=finf_environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for kind in POOLS:
        prefect("work-pool", "create", f"finf-{kind}", "--type", kind)
    prefect("deploy", "--all", "--prefect-file", str(FILE.relative_to(ROOT)))
    made = {each["name"]: each for each in ask(f"{prefect_url}/deployments/filter")}
    for deployment in deployments():
        found = made[deployment["name"]]
        assert found["work_pool_name"] == deployment["work_pool"]["name"]
        assert found["schedules"][0]["schedule"]["cron"] == deployment["schedules"][0]["cron"]
        assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        assert found["enforce_parameter_schema"]

    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint, num_shards=1)
    parameters = {"config": str(config), "store": str(tmp_path / "store"), "actors": 1}
    asked = ask(
        f"{prefect_url}/deployments/{made['nightly-process']['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    prefect("worker", "start", "--pool", "finf-process", "--run-once")
    [run] = ask(f"{prefect_url}/flow_runs/filter", {"flow_runs": {"id": {"any_": [asked["id"]]}}})
    assert run["state_name"] == "Completed", json.dumps(run["state"])
    assert list((tmp_path / "store" / "latest").iterdir())
