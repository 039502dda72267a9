"""How many inputs the fuzz tests tried, by reader; printed at the end of a test run.

`make fuzz` tries more of them: FINF_FUZZ_EXAMPLES inputs for each test.
"""

import os
from collections import Counter

NUM_EXAMPLES = int(os.environ.get("FINF_FUZZ_EXAMPLES", "200"))

tried: Counter[str] = Counter()
