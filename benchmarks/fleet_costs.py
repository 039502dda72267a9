"""What a scan would cost on spot GPUs: a projection from throughput that was measured on one GPU.

Each line of the sheet has a fleet of its own: as many units as its corpus has, as long as its model takes for one,
simulated with deaths (`benchmarks.fleet_simulation`). The passes are those of `finf_core.strategy`. To that come what
one process merges while all others wait, and the kept rows, whose bundles are shared by no more actors than there are
bundles. Not in it: curvature, updates, projections, checks, the report, the corpus' own storage, traffic.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.fleet_simulation import HOUR_SECONDS, Fleet, simulate
from finf_core.spec import StrategySpec
from finf_core.strategy import BLOCK_SHARE, Counts, StrategyCost, rows_to_keep, strategy_costs
from tasks.bundles import BUNDLE_QUERIES
from tasks.merge_units import CANDIDATE_BYTES

TOKENS_PER_SECOND = {"1B": 151_000.0, "7B": 29_000.0}  # measured, one H100, compiled: docs/PERFORMANCE.md, "On a GPU"
GFLOP_PER_TOKEN = {"7B": 13.75, "70B": 140.0}  # the first is that page's; Llama 70B, 2,048 tokens, by hand
FIRST_PASS = 1.6  # one_pass in forward passes, likewise; with 10,000 queries 0.1 % more, by hand
NOT_POSSIBLE = "70B"  # an actor holds a model on one GPU, and 140 GB in bfloat16 do not fit

DEATHS_PER_HOUR = {"calm": 0.0003, "a day at most": 0.042, "scarce": 0.33}
USUAL = "a day at most"
REPLACE_SECONDS, LOAD_SECONDS = 360.0, 120.0
SLOW_SHARE, FAILURE_SHARE, SPREAD = 0.02, 1e-5, 0.2

SPOT_DOLLARS = 2.25  # an H100 for an hour
WRITE_DOLLARS, READ_DOLLARS, MONTH_DOLLARS = 0.005 / 1000, 0.0004 / 1000, 0.023 / 2**30  # S3 Standard
WRITES_OF_UNIT = 2  # its result, its base losses
ROW_TOKENS = UNIT_ROWS = 1_000  # of a row; of a unit that is one row group
KEPT_ROWS = 100  # strategy.rescored_rows; the default grows with the corpus

TOKENS = {"1 B": 10**9, "10 B": 10**10, "1 T": 10**12}
QUERIES = (164, 10_000)
GPUS = (64, 512)


@dataclass(frozen=True)
class Measured:
    """By this benchmark, on this machine."""

    ms_per_answer: Mapping[int, float]  # by seats
    name_ms_per_unit: float
    merge_us_per_candidate: Mapping[int, float]  # by queries
    bytes_per_candidate: Mapping[int, float]  # likewise
    reads_per_unit: float
    listing_seconds: float  # of finf's side, for each object

    def answer_seconds(self, num_seats: int) -> float:
        """Of the nearest number of seats above that was measured."""
        above = [seats for seats in self.ms_per_answer if seats >= num_seats] or [max(self.ms_per_answer)]
        return (self.ms_per_answer[min(above)] + self.name_ms_per_unit) / 1000


def throughput(model: str) -> float:
    """Tokens a second of one H100; of 70B by FLOPs from what 7B reaches."""
    if model == NOT_POSSIBLE:
        return TOKENS_PER_SECOND["7B"] * GFLOP_PER_TOKEN["7B"] / GFLOP_PER_TOKEN[model]
    return TOKENS_PER_SECOND[model]


def costs_of(num_tokens: int, num_queries: int, kept_rows: int | None) -> dict[str, StrategyCost]:
    """By strategy. Args: kept_rows: None: as many as finf keeps by itself."""
    spec, num_rows = StrategySpec(rescored_rows=kept_rows), num_tokens // ROW_TOKENS
    kept = rows_to_keep(spec, 20, num_rows, num_queries)
    return {cost.kind: cost for cost in strategy_costs(spec, Counts(num_rows, num_queries, kept, 1.0, FIRST_PASS))}


def fleet_of(measured: Measured, num_actors: int, unit_seconds: float, deaths: str = USUAL) -> Fleet:
    return Fleet(
        num_actors=num_actors,
        unit_seconds=unit_seconds,
        spread=SPREAD,
        load_seconds=LOAD_SECONDS,
        deaths_per_hour=DEATHS_PER_HOUR[deaths],
        replace_seconds=REPLACE_SECONDS,
        failure_share=FAILURE_SHARE,
        slow_share=SLOW_SHARE,
        answer_seconds=measured.answer_seconds(num_actors),
        listing_seconds=measured.listing_seconds,
    )


def cost_sheet(measured: Measured, price: float) -> list[dict[str, Any]]:
    models = [*TOKENS_PER_SECOND, NOT_POSSIBLE]
    return [
        _line(measured, price, name, model, num_queries)
        for name, model, num_queries in itertools.product(TOKENS, models, QUERIES)
    ]


def _line(measured: Measured, price: float, name: str, model: str, num_queries: int) -> dict[str, Any]:
    num_tokens, pass_hours = TOKENS[name], TOKENS[name] / throughput(model) / HOUR_SECONDS
    num_units = num_tokens // (ROW_TOKENS * UNIT_ROWS)
    cost, default = (costs_of(num_tokens, num_queries, kept)["one_pass"] for kept in (KEPT_ROWS, None))
    num_candidates = num_units * num_queries * min(UNIT_ROWS, math.ceil(KEPT_ROWS * (1 + BLOCK_SHARE)))
    num_bytes = num_candidates * measured.bytes_per_candidate[num_queries]
    merge_hours = num_candidates * measured.merge_us_per_candidate[num_queries] / 1e6 / HOUR_SECONDS
    line: dict[str, Any] = {
        "tokens": name,
        "model": model,
        "queries": num_queries,
        "gpu_hours": cost.forward_equivalents * pass_hours,
        "gpu_hours_default": default.forward_equivalents * pass_hours,
        "gpu_hours_every_query": (num_queries + 1) * pass_hours,
        "merge_hours": merge_hours,
        "store_gb": num_bytes / 1e9,
        "request_dollars": num_units * (WRITES_OF_UNIT * WRITE_DOLLARS + measured.reads_per_unit * READ_DOLLARS),
        "month_dollars": num_bytes * MONTH_DOLLARS,
        "is_possible": model != NOT_POSSIBLE,
    }
    for num_gpus in GPUS:
        scored = simulate(fleet_of(measured, num_gpus, cost.first_pass * pass_hours * 3600 / num_units), num_units)
        kept_hours = cost.rescoring * pass_hours / min(num_gpus, math.ceil(num_queries / BUNDLE_QUERIES))
        hours = scored.wall_seconds / HOUR_SECONDS + merge_hours + kept_hours
        line |= {
            f"overhead_{num_gpus}": scored.overhead,
            f"scoring_hours_{num_gpus}": scored.wall_seconds / HOUR_SECONDS,
            f"wall_hours_{num_gpus}": hours,
            f"dollars_{num_gpus}": hours * num_gpus * price,
            f"dollars_without_merge_{num_gpus}": (hours - merge_hours) * num_gpus * price,
        }
    return line


def default_keeps(num_queries: int = QUERIES[0]) -> list[dict[str, Any]]:
    """What the default number of kept rows takes."""
    found = []
    for name, num_tokens in TOKENS.items():
        kept = rows_to_keep(StrategySpec(), 20, num_tokens // ROW_TOKENS, num_queries) * (1 + BLOCK_SHARE)
        found.append(
            {
                "tokens": name,
                "num_units": num_tokens // (ROW_TOKENS * UNIT_ROWS),
                "kept_rows": kept,
                "merged_gb": num_queries * kept * CANDIDATE_BYTES / 1e9,  # in the process that merges
                "bundle_rows": BUNDLE_QUERIES * kept,  # at most, at once in an actor
                "bundle_gb": BUNDLE_QUERIES * kept * ROW_TOKENS * 24 / 1e9,  # docs/RELIABILITY.md: 24 B a token
                "most_actors": math.ceil(num_queries / BUNDLE_QUERIES),
            }
        )
    return found
