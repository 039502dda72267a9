"""What a scan would cost by each strategy, measured on a few rows before anything is paid."""

import math
import random
from dataclasses import dataclass

from finf_core.spec import ScanSpec, StrategyKind
from finf_core.strategy import StrategyCost
from tasks.bundles import BUNDLE_QUERIES
from tasks.choose_strategy import PassCosts, choose_by_sample, measure_passes
from tasks.corpus import plan_units
from tasks.load_model import load_model
from tasks.options import RunOptions
from tasks.resolve_inputs import find_inputs

SAMPLE_UNITS = 4
SAMPLE_SEED = 0


@dataclass(frozen=True)
class StrategyPlan:
    """One way through the corpus. Curvature and updates, which every way needs once, are not in it."""

    kind: StrategyKind
    forward_equivalents: float  # forward passes of the base model over the corpus that cost as much
    flops: float
    bytes_read: int  # of the shards, at most
    seconds: float  # on this machine
    price: float | None  # of these seconds, where a price per hour is given


@dataclass(frozen=True)
class Plan:
    num_shards: int
    num_rows: int
    num_units: int
    num_tokens: int  # of the corpus, judged from the sample
    num_queries: int
    sample_rows: int
    tokens_per_second: float  # of this machine, one forward pass
    strategies: tuple[StrategyPlan, ...]
    picked: StrategyKind
    reason: str


def plan_scan(spec: ScanSpec, options: RunOptions, price_per_hour: float | None = None) -> Plan:
    """Count rows from the footers, count and time passes over a sample in this process, and extrapolate.

    Raises:
        InputError, CheckpointError: an input is missing or unusable, or the strategy asked for cannot be had.
    """
    inputs = find_inputs(spec, options)
    units = list(plan_units(inputs.shards))
    model = load_model(spec.model, spec.corpus, options.batch_tokens, options.compiled)
    drawn_from = list(plan_units(inputs.sample))
    sample = random.Random(SAMPLE_SEED).sample(drawn_from, min(SAMPLE_UNITS, len(drawn_from)))
    costs = measure_passes(model, inputs.job, sample, len(inputs.queries))
    sample_rows, num_rows = (sum(shard.num_rows for shard in shards) for shards in (inputs.sample, inputs.shards))
    strategy = choose_by_sample(inputs.job, costs, sample_rows, num_rows, len(inputs.queries))
    scale = num_rows / costs.num_rows
    num_bytes = sum(shard.size_bytes for shard in inputs.shards)
    num_bundles = math.ceil(len(inputs.queries) / BUNDLE_QUERIES)  # each may read every unit again
    bytes_read = dict.fromkeys(("grouped", "one_pass"), (1 + num_bundles) * num_bytes) | {"every_query": num_bytes}
    return Plan(
        num_shards=len(inputs.shards),
        num_rows=num_rows,
        num_units=len(units),
        num_tokens=round(costs.num_tokens * scale),
        num_queries=len(inputs.queries),
        sample_rows=costs.num_rows,
        tokens_per_second=costs.num_tokens / costs.forward_seconds,
        strategies=tuple(_plan(cost, costs, scale, bytes_read[cost.kind], price_per_hour) for cost in strategy.costs),
        picked=strategy.kind,
        reason=strategy.reason,
    )


def _plan(cost: StrategyCost, costs: PassCosts, scale: float, num_bytes: int, price: float | None) -> StrategyPlan:
    """FLOPs as counted; seconds as measured, for a backward pass need not run as fast as a forward pass."""
    first_seconds = cost.first_pass * costs.forward_seconds
    if cost.kind == "one_pass" and costs.one_pass_seconds is not None:
        first_seconds = costs.one_pass_seconds
    seconds = scale * (first_seconds + cost.rescoring * costs.forward_seconds)
    return StrategyPlan(
        kind=cost.kind,
        forward_equivalents=cost.forward_equivalents,
        flops=scale * cost.forward_equivalents * costs.forward_flops,
        bytes_read=num_bytes,
        seconds=seconds,
        price=None if price is None else price * seconds / 3600,
    )
