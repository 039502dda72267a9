"""Run as a program: score a job's units in a process that may not have more memory than it has, and a little.

RUN_URI SPARE_BYTES. Prints the tokens of a batch at the end, and those that were asked for.
"""

import resource
import sys
import threading

from flows.environment import set_environment

set_environment()

import torch  # noqa: E402

from tasks.resolve_inputs import read_job  # noqa: E402
from tasks.score_shards import planned_units  # noqa: E402
from tasks.settle import settle  # noqa: E402
from tasks.shard_scorer import ShardScorer  # noqa: E402


def own_bytes() -> int:
    """Of memory that only this process may write to: what RLIMIT_DATA limits."""
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith("VmData")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    threading.stack_size(256 * 1024)  # of readers' threads: as large as a batch otherwise
    job = settle(read_job(sys.argv[1]))
    scorer = ShardScorer(job)
    units = list(planned_units(job))
    scorer.halvings = 16
    scorer.score(units[0])  # whatever is loaded at the first time, is; in batches as small as can be
    scorer.halvings = 0
    limit = own_bytes() + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for unit in units[1:]:
        scorer.score(unit)
    print(scorer.model.with_halved_batches(scorer.halvings).batch_tokens, scorer.model.batch_tokens)
