"""What a scan would cost, measured on a few rows before anything is paid."""

import random
from dataclasses import dataclass

from finf_core.spec import ScanSpec
from tasks.check_model import check_model_on_rows
from tasks.checkpoint import load_model
from tasks.corpus import plan_units
from tasks.options import RunOptions
from tasks.resolve_inputs import find_inputs

SAMPLE_UNITS = 4
SAMPLE_SEED = 0


@dataclass(frozen=True)
class Plan:
    num_shards: int
    num_rows: int
    num_units: int
    num_tokens: int  # of the corpus, judged from the sample
    num_queries: int
    num_passes: int  # over the corpus: one base pass and one per query
    sample_rows: int
    tokens_per_second: float  # of this machine, one forward pass
    seconds: float  # of all passes on this machine


def plan_scan(spec: ScanSpec, options: RunOptions) -> Plan:
    """Count rows from the footers, read and score a sample in this process, and extrapolate."""
    inputs = find_inputs(spec, options)
    units = list(plan_units(inputs.shards))
    model = load_model(spec.model, options.batch_tokens)
    sample = random.Random(SAMPLE_SEED).sample(units, min(SAMPLE_UNITS, len(units)))
    check_model_on_rows(model, inputs.job, sample[0])  # warm-up: the first pass is slower
    checks = [check_model_on_rows(model, inputs.job, unit) for unit in sample]
    sample_rows, sample_tokens = sum(check.num_rows for check in checks), sum(check.num_tokens for check in checks)
    tokens_per_second = sample_tokens / sum(check.seconds for check in checks)
    num_rows = sum(shard.num_rows for shard in inputs.shards)
    num_tokens = round(num_rows * sample_tokens / sample_rows)
    num_passes = 1 + len(inputs.queries)
    return Plan(
        num_shards=len(inputs.shards),
        num_rows=num_rows,
        num_units=len(units),
        num_tokens=num_tokens,
        num_queries=len(inputs.queries),
        num_passes=num_passes,
        sample_rows=sample_rows,
        tokens_per_second=tokens_per_second,
        seconds=num_tokens * num_passes / tokens_per_second,
    )
