"""How a corpus meets many queries: which passes are made, what they cost, and which way is chosen.

| strategy | first pass over every row | then, each query alone, on |
|---|---|---|
| `every_query` | the base model and each query's mirrored model | |
| `grouped` | the base model and one mirrored model for each group of queries | the best rows of its groups |
| `one_pass` | forward and backward once, for all queries (`finf_core.adjoint`) | its best rows |

Where only the last blocks move, a query's own passes are of these blocks alone (`finf_core.trunk`).
Costs are forward passes of the base model over the whole corpus, counted in FLOPs. What the first pass keeps, and so
what is found, is measured in docs/PERFORMANCE.md: groups lose reworded copies, and are never chosen unasked.
Name suffixes: Q queries.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from finf_core.errors import InputError
from finf_core.spec import StrategyKind, StrategySpec

BLOCK_SHARE = 0.25  # as many rows, of those kept by rank.by, are kept by their best block or span too
RESCORING_PASSES = 1.1  # what scoring the kept rows may cost, in forward passes over the corpus
ROWS_OF_KEPT = 1.7  # a kept row and query cost so many mean rows: kept rows are longer than most, and the share above
MOST_KEPT = (
    2_000_000  # pairs of row and query, beyond which one machine can neither merge nor score them (docs/FLEET.md)
)
WORTH_IT = 0.5  # of the cost of every query on every row

Q = TypeVar("Q")


@dataclass(frozen=True)
class Counts:
    """What the costs depend on."""

    num_rows: int
    num_queries: int
    rows_per_query: int  # that the first pass keeps by rank.by
    per_query_equivalents: float  # mirrored passes of one query, over a forward pass: 1, 2, or less with a trunk
    one_pass_equivalents: float | None  # a forward and backward pass with all queries, over a forward pass
    no_one_pass: str = ""  # why there is none


@dataclass(frozen=True)
class StrategyCost:
    kind: StrategyKind
    first_pass: float  # forward-pass equivalents per row of the corpus
    rescoring: float  # likewise, if kept rows are as long as others

    @property
    def forward_equivalents(self) -> float:
        return self.first_pass + self.rescoring


@dataclass(frozen=True)
class Strategy:
    """What was chosen, out of what, and why."""

    spec: StrategySpec  # with a kind that is not "auto"
    costs: tuple[StrategyCost, ...]
    reason: str

    @property
    def kind(self) -> StrategyKind:
        if self.spec.kind == "auto":
            raise InputError("a strategy that is chosen is not 'auto'")
        return self.spec.kind


def strategy_costs(spec: StrategySpec, counts: Counts) -> tuple[StrategyCost, ...]:
    """Of every strategy that this update allows."""
    per_query = counts.per_query_equivalents
    kept_share = min(1.0, (1 + BLOCK_SHARE) * counts.rows_per_query / counts.num_rows)
    rescored = kept_share * counts.num_queries * per_query  # what rows cost the base model is known by then
    num_groups = math.ceil(counts.num_queries / spec.group_size) * spec.num_groupings
    costs = [
        StrategyCost("every_query", 1 + counts.num_queries * per_query, 0.0),
        StrategyCost("grouped", 1 + num_groups * per_query, rescored * spec.num_groupings),
    ]
    if counts.one_pass_equivalents is not None:
        costs.append(StrategyCost("one_pass", counts.one_pass_equivalents, rescored))
    return tuple(costs)


def rows_to_keep(spec: StrategySpec, top_k: int, num_rows: int, num_queries: int) -> int:
    """How many rows the first pass keeps for each query: as asked for, or as many as are listed, or as many as cost
    about `RESCORING_PASSES` to score, whichever is more; with all queries together `MOST_KEPT` at most.

    In steps of a quarter of a power of two (4, 5, 6, 7, 8, 10, 12, …), so that a corpus that grows a little keeps as
    many, and its finished units stay valid.
    """
    if spec.rescored_rows is not None:
        return spec.rescored_rows
    affordable = max(1.0, min(RESCORING_PASSES * num_rows / ROWS_OF_KEPT, MOST_KEPT) / num_queries)
    step = 1 << max(0, math.floor(math.log2(affordable)) - 2)
    return max(top_k, step * round(affordable / step))


def choose_strategy(spec: StrategySpec, counts: Counts) -> Strategy:
    """The one that was asked for; else `every_query`, unless `one_pass` costs less than half: it may lose a row.

    Raises:
        InputError: `one_pass` was asked for and this update or model does not allow it.
    """
    spec = replace(spec, rescored_rows=counts.rows_per_query)
    costs = strategy_costs(spec, counts)
    cost_of = {cost.kind: cost.forward_equivalents for cost in costs}
    if spec.kind == "one_pass" and "one_pass" not in cost_of:
        raise InputError(f"strategy.kind = 'one_pass' cannot be had: {counts.no_one_pass}")
    if spec.kind != "auto":
        return Strategy(spec, costs, "asked for")
    if "one_pass" not in cost_of:
        return Strategy(replace(spec, kind="every_query"), costs, f"no single pass: {counts.no_one_pass}")
    if cost_of["one_pass"] < WORTH_IT * cost_of["every_query"]:
        return Strategy(replace(spec, kind="one_pass"), costs, "less than half the cost of every_query")
    return Strategy(replace(spec, kind="every_query"), costs, "one_pass would not halve the cost")


def group_queries(queries: Sequence[Q], size: int, num_groupings: int, seed: int) -> list[list[Q]]:
    """Groups of at most `size`, `num_groupings` times over.

    Neighbours in the list, which are often alike (one source, one topic), are put into different groups the first time;
    further groupings are drawn.
    """
    groups: list[list[Q]] = []
    order = list(queries)
    for number in range(num_groupings):
        if number:
            order = random.Random(f"{seed} {number}").sample(list(queries), len(queries))
        num_groups = math.ceil(len(order) / size)
        groups += [list(order[start::num_groups]) for start in range(num_groups)]
    return groups
