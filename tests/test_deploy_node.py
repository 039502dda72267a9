"""deploy/on-ray-node.sh: a node and a command that live and die together; with real Ray in test_deploy_stack.py."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from deploy_files import DEPLOY

NODE = """#!/bin/bash
trap 'echo node stopped; exit 0' TERM
echo node started
{first}
touch started
{then}
while :; do sleep 0.05; done
"""
IS_ALIVE = "#!/bin/bash\ntest -e started\n"
COMMAND = "trap 'echo command stopped; exit 143' TERM; touch running; while :; do sleep 0.05; done"


@pytest.fixture
def on_node(tmp_path: Path) -> "OnNode":
    return OnNode(tmp_path)


class OnNode:
    """The script, with a node that does nothing in place of Ray's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *command: str, first: str = "", then: str = "") -> subprocess.Popen[str]:
        for name, text in (("ray", NODE.format(first=first, then=then)), ("alive.py", IS_ALIVE)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        return subprocess.Popen(
            [str(DEPLOY / "on-ray-node.sh"), "head:6379", *command],
            env={"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 10
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, name
            time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 3])
def test_what_the_command_ended_with_is_what_the_container_ends_with(on_node: OnNode, code: int) -> None:
    process = on_node.start("bash", "-c", f"echo at work; exit {code}")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert output.splitlines() == ["node started", "at work", "node stopped"]


def test_a_command_without_its_node_is_stopped(on_node: OnNode) -> None:
    process = on_node.start("bash", "-c", COMMAND, then="until test -e running; do sleep 0.05; done; exit 1")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "command stopped" in output


def test_the_node_outlives_the_command_that_is_asked_to_stop_once(on_node: OnNode) -> None:
    process = on_node.start("bash", "-c", COMMAND)
    on_node.wait_for("running")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert output.splitlines() == ["node started", "command stopped", "node stopped"]


def test_a_cluster_that_is_not_there_is_one_line(on_node: OnNode) -> None:
    process = on_node.start("echo", "at work", first="exit 1")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output.splitlines()[-1] == "no Ray cluster at head:6379"
