"""`finf serve`: a real deployment on a real server fires by itself, tells people, and refuses what cannot run."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_scan import FINF, run_finf, write_inputs

from finf_core.errors import InputError
from flows.serve import make_schedule

WAIT_SECONDS = 300
STOPPED = 143

SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
body = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="test", url=sys.argv[1], json_data=body).save("leaks")
"""


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a server that hears of everything, and what it has heard."""
    heard: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/leaks", heard
    server.shutdown()
    server.server_close()


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def wait_for(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(1)
    raise AssertionError(f"no {what} within {WAIT_SECONDS} s")


def test_a_served_scan_fires_by_its_schedule_tells_of_new_leakage_once_and_of_failure(
    tiny_checkpoint: Path,
    tmp_path: Path,
    finf_environment: dict[str, str],
    prefect_url: str,
    webhook: tuple[str, list[dict[str, str]]],
) -> None:
    hook, heard = webhook
    environment = finf_environment | {"NO_PROXY": "127.0.0.1"}
    saved = subprocess.run([sys.executable, "-c", SAVE_BLOCK, hook], env=environment, capture_output=True, text=True)
    assert saved.returncode == 0, saved.stderr
    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint, num_shards=2)
    command = [FINF, "serve", str(config), "--name", "nightly", "--every", "5", "--actors", "1"]
    command += ["--store", str(tmp_path / "store"), "--notify", "custom-webhook/leaks"]

    def runs_of(state: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(f"{prefect_url}/flow_runs/filter", {"sort": "START_TIME_ASC", **mine})
        return [run for run in found if run["state_name"] == state]

    with (tmp_path / "serve.log").open("wb") as log:
        serving = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            deployments = {"deployments": {"name": {"any_": ["nightly"]}}}
            [deployment] = wait_for(lambda: ask(f"{prefect_url}/deployments/filter", deployments), "deployment")
            mine = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
            for wrong in ({"actors": 0}, {"max_hours": "soon"}):
                with pytest.raises(urllib.error.HTTPError, match="HTTP Error 4"):
                    ask(f"{prefect_url}/deployments/{deployment['id']}/create_flow_run", {"parameters": wrong})

            wait_for(lambda: len(runs_of("Completed")) >= 2, "two runs")
            assert all(run["auto_scheduled"] for run in runs_of("Completed"))
            config.write_text("kind = 'scan'\n")  # whoever edits it next makes a mistake
            wait_for(lambda: runs_of("Failed"), "failed run")
            wait_for(lambda: len(heard) >= 2, "word of the failure")
            serving.terminate()
            assert serving.wait(60) == STOPPED
        finally:
            serving.kill()
            serving.wait()
    [served] = ask(f"{prefect_url}/deployments/filter", deployments)
    assert served["paused"]
    leak, failure = heard[:2]
    assert leak["subject"] == "finf: new leakage in example"
    assert leak["body"].startswith("1 queries leaked anew: 0\n")
    assert failure["subject"].endswith("failed")
    assert "scan.toml: " in failure["body"]
    assert "name" in failure["body"]

    latest = {artifact["key"]: artifact for artifact in ask(f"{prefect_url}/artifacts/latest/filter")}
    assert "1 of 4" in latest["example-summary"]["data"]
    assert "report.html" in latest["example-report"]["data"]
    events = ask(f"{prefect_url}/events/filter", {"filter": {"event": {"name": ["finf.leakage.new"]}}})["events"]
    told = [event["payload"] for event in events if event["payload"]["run"].startswith(str(tmp_path))]
    assert [payload["queries"] for payload in told] == [["0"]]


def test_what_would_fail_in_the_night_fails_when_it_is_served(
    tmp_path: Path, finf_environment: dict[str, str], tiny_checkpoint: Path
) -> None:
    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint, num_shards=1)
    served = ("serve", str(config), "--name", "nightly", "--store", str(tmp_path / "store"), "--cron", "0 2 * * *")
    done = run_finf(*served, "--notify", "slack-webhook/nobody", environment=finf_environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("finf: --notify slack-webhook/nobody: no such block")
    done = run_finf(*served, environment=finf_environment | {"PREFECT_API_URL": ""})
    assert (done.returncode, "finf: finf serve wants a Prefect server" in done.stderr) == (2, True)
    config.write_text("kind = 'scan'\nname = 'x'\nmodell = 1\n")
    done = run_finf(*served, environment=finf_environment)
    assert (done.returncode, "did you mean model?" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("cron", "every", "timezone", "problem"),
    [
        ("61 * * * *", None, "UTC", "no such time"),
        ("0 2 * * *", None, "Mars/Olympus", "want a name such as"),
        (None, None, "UTC", "one of the two"),
        ("0 2 * * *", 60.0, "UTC", "one of the two"),
    ],
)
def test_a_schedule_that_never_comes_is_refused(
    cron: str | None, every: float | None, timezone: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        make_schedule(cron, every, timezone)
