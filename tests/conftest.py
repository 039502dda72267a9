"""What several test files share. Servers are real, on loopback, and stopped in the end."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import scan_example
import torch
from faults import Ledger, ledger
from fuzz_counts import tried
from playwright.sync_api import Browser
from prefect_server import running_prefect_server
from ray_head import running_ray_head
from report_page import OpenPage, page_opener, running_browser
from s3_server import S3Server, running_s3_server

from flows.environment import set_environment

set_environment()  # before any test imports prefect, ray or transformers
torch.set_num_threads(1)  # actors of the same test use the other core; two busy threads a process would be slower
hypothesis.settings.register_profile("finf", deadline=None)  # a slow moment of the machine is no failure
hypothesis.settings.load_profile("finf")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) that checks credentials."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh bucket, and an environment in which finf finds it, whatever the machine's own AWS settings are."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = s3_server.environment | {"NO_PROXY": "127.0.0.1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{secrets.token_hex(6)}"
    client = s3_server.client()
    client.create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    client.delete_bucket(Bucket=bucket)  # with all that is in it: the server has room for some forty buckets
    client.close()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that has learned the example corpus, as a Hugging Face folder."""
    return scan_example.train_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server of the tests' own."""
    with running_prefect_server(tmp_path_factory.mktemp("prefect-server")) as url:
        yield url


@pytest.fixture(scope="session")
def ray_settings() -> Iterator[dict[str, str]]:
    """The environment of all runs that do not try Ray itself: one cluster is there for them."""
    with running_ray_head() as settings:
        yield settings


@pytest.fixture
def finf_environment(prefect_url: str, ray_settings: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What `finf` runs in: the tests' servers, and Prefect's own files in the test's folder."""
    return os.environ | ray_settings | {"PREFECT_API_URL": prefect_url, "PREFECT_HOME": str(tmp_path / "prefect")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are for a machine that has one."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands over what it counted."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["counted"] = json.dumps([vars(ledger), tried])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if hasattr(node, "workeroutput"):  # not where the worker crashed
        counted, of_reader = json.loads(node.workeroutput["counted"])
        ledger.add(Ledger(**counted | {"by_name": Counter(counted["by_name"])}))
        tried.update(of_reader)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if tried:
        terminalreporter.write_line(f"inputs tried: {json.dumps(dict(sorted(tried.items())))}")
    if ledger.tried:
        terminalreporter.write_line("faults survived, and how often:")
        for line in ledger.table():
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last line of `make faults`."""
    if ledger.tried and not hasattr(config, "workeroutput"):
        print(ledger.line())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as launched:
        yield launched


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    with page_opener(browser, tmp_path) as opened:
        yield opened
