"""Run as a program: a scan whose process is killed when so many stages have ended. CONFIG STORE NUM_STAGES"""

import os
import signal
import sys
from pathlib import Path

from flows.environment import set_environment

set_environment()

from flows import stage  # noqa: E402
from flows.scan import run_scan  # noqa: E402
from tasks.actor_pool import PoolOptions  # noqa: E402
from tasks.config import load_config  # noqa: E402
from tasks.options import RunOptions  # noqa: E402

timed = stage.Stages._timed


def timed_and_killed(self, name, task, cached):
    result = timed(self, name, task, cached)
    if len(self.timings) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


if __name__ == "__main__":
    stage.Stages._timed = timed_and_killed
    options = RunOptions(store=sys.argv[2], batch_tokens=64, pool=PoolOptions(num_actors=2))
    run_scan(load_config(Path(sys.argv[1]), None), options)
