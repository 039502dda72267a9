"""Nothing that a run starts outlives it, not even when the run is killed with -9.

A small shell waits on a pipe that closes with this process, however it ends, and then ends every process that
inherited this run's mark in its environment: Ray's daemons and actors, the Prefect server. On Linux only.
"""

import os
import secrets
import subprocess
from pathlib import Path

MARK = "FINF_RUN"
# without the mark itself, and in a session of its own: what ends the run does not end the guard
GUARD = """
read -r _
for round in TERM TERM KILL; do
  sleep 1
  for file in $(grep -lzsx "$1" /proc/[0-9]*/environ); do
    pid=${file#/proc/}
    kill -s "$round" "${pid%/environ}" 2>/dev/null
  done
done
"""

_guards: list[subprocess.Popen[bytes]] = []  # held: a pipe that is collected is closed


def guard_children() -> None:
    """Mark all processes that are started from now on, and have them ended when this one has ended."""
    if _guards or not Path("/proc/self/environ").exists():
        return
    mark = f"{MARK}={secrets.token_hex(16)}"
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    command = ["sh", "-c", GUARD, "finf-guard", mark]
    null = subprocess.DEVNULL
    _guards.append(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=null, stderr=null, env=environment, start_new_session=True
        )
    )
    os.environ[MARK] = mark.partition("=")[2]
