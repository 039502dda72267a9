"""Run as a program: `finf`, whose actors die of one shard as long as the file that FINF_TEST_POISON names is there."""

from flows.environment import set_environment

set_environment()

from faulty_scan import PoisonedScorer  # noqa: E402

import flows.crewed  # noqa: E402
from flows.cli import main  # noqa: E402

if __name__ == "__main__":
    flows.crewed.ShardScorer = PoisonedScorer
    main()
