"""Choose how the corpus meets the queries, from the FLOPs of a sample of rows: `finf_core.strategy`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from finf_core.adjoint import row_changes
from finf_core.errors import InputError
from finf_core.kernels import plain_kernels
from finf_core.layers import factored_layers
from finf_core.moving import moving_parameters
from finf_core.projection import Projection, blank_projection, last_blocks, projectable_layers
from finf_core.scoring import score_rows
from finf_core.spec import Difference
from finf_core.strategy import Counts, Strategy, choose_strategy, rows_to_keep
from finf_core.updates import MirroredUpdate
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.bad_rows import sort_out_bad_rows
from tasks.corpus import Unit, read_unit
from tasks.encode import encode_corpus_rows
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.queries import read_queries
from tasks.score_shards import planned_units, sample_units

SAMPLE_ROWS = 128

Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class PassCosts:
    """Of a sample of rows."""

    num_rows: int  # good and bad
    num_tokens: int
    forward_flops: float
    forward_seconds: float
    per_query_flops: float
    one_pass_flops: float | None = None  # None: this update or model does not allow it
    one_pass_seconds: float | None = None
    no_one_pass: str = ""  # why

    @property
    def one_pass_equivalents(self) -> float | None:
        return None if self.one_pass_flops is None else self.one_pass_flops / self.forward_flops


def choose_strategy_for(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor count on the first unit and publish the choice; returns its URI."""
    list(pool.map("choose_strategy", [next(sample_units(job))]))
    return job.strategy_uri


def choose_on_rows(model: LoadedModel, job: ScanJob, unit: Unit) -> Strategy:
    """On the actor: count what passes cost on the first rows of a unit; publishes the choice."""
    num_queries = len(read_queries(job.queries_uri))
    costs = measure_passes(model, job, [unit], num_queries)
    sample_rows, num_rows = (sum(unit.num_rows for unit in units(job)) for units in (sample_units, planned_units))
    strategy = choose_by_sample(job, costs, sample_rows, num_rows, num_queries)
    storage.publish_first(job.strategy_uri, json.dumps(asdict(strategy)).encode())
    return strategy


def read_strategy(job: ScanJob) -> Strategy:
    return TypeAdapter(Strategy).validate_json(storage.read_bytes(job.strategy_uri))


def choose_by_sample(job: ScanJob, costs: PassCosts, sample_rows: int, num_rows: int, num_queries: int) -> Strategy:
    """The kind as for a corpus of the sample's size: it stays while the corpus grows. All else as for the corpus."""
    asked, counts = job.spec.strategy, counts_of(job, costs, sample_rows, num_queries)
    chosen = choose_strategy(asked, counts)
    here = choose_strategy(replace(asked, kind=chosen.kind), counts_of(job, costs, num_rows, num_queries))
    return replace(here, reason=chosen.reason)


def counts_of(job: ScanJob, costs: PassCosts, num_rows: int, num_queries: int) -> Counts:
    per_query = costs.per_query_flops / costs.forward_flops
    rows_per_query = rows_to_keep(job.spec.strategy, job.spec.rank.top_k, num_rows, num_queries)
    return Counts(num_rows, num_queries, rows_per_query, per_query, costs.one_pass_equivalents, costs.no_one_pass)


def measure_passes(model: LoadedModel, job: ScanJob, units: Sequence[Unit], num_queries: int) -> PassCosts:
    """FLOPs (counted) and seconds of a forward pass, and of a pass for all queries at once, over some rows of each.

    Raises:
        InputError: no row of the sample can be scored.
    """
    sample = [_first_rows(model, job, unit, SAMPLE_ROWS // len(units)) for unit in units]
    windows = [row for _, good in sample for row in good]
    if not any(windows):
        raise InputError(
            f"{units[0].shard}: none of the first rows can be scored; is the corpus' column the right one?"
        )
    moving = _moving(model, job)
    num_tokens = sum(len(window) for row in windows for window in row)
    compiled = model.compiled
    flops, seconds = _measure(lambda: score_rows(model.adapter, windows, [], model.batch_tokens), compiled)
    per_query_flops = _per_query_flops(model, job, windows, moving)
    costs = PassCosts(sum(num_rows for num_rows, _ in sample), num_tokens, flops, seconds, per_query_flops)
    try:
        projection = _blank(model, job, moving, num_queries)
        tokens = model.gradient_batch_tokens
        one_pass = _measure(lambda: row_changes(model.adapter, windows, projection, tokens), compiled)
    except InputError as error:
        return replace(costs, no_one_pass=str(error))
    except torch.OutOfMemoryError:
        return replace(costs, no_one_pass="a pass with gradients does not fit in memory; try a smaller --batch-tokens")
    return replace(costs, one_pass_flops=one_pass[0], one_pass_seconds=one_pass[1])


def _first_rows(model: LoadedModel, job: ScanJob, unit: Unit, num_rows: int) -> tuple[int, list[list[Any]]]:
    """How many rows were read, and those of them that can be scored."""
    rows = list(islice(chain.from_iterable(read_unit(unit, job.spec.corpus, model.chat)), num_rows))
    good, _ = sort_out_bad_rows(rows, unit.shard, job.spec.corpus)
    return len(rows), encode_corpus_rows(model, job.spec.model, good, unit.shard)


def describe_strategy(strategy: Strategy, num_queries: int) -> str:
    """One sentence for people."""
    cost_of = {cost.kind: cost.forward_equivalents for cost in strategy.costs}
    spec = strategy.spec
    first_pass = {
        "every_query": "every row is scored for every query",
        "one_pass": f"one pass for all {num_queries:,} queries, then each on its {spec.rescored_rows:,} best rows",
        "grouped": f"one update for every {spec.group_size} queries, then each query alone on their best rows",
    }[strategy.kind]
    others = ", ".join(f"{kind} {cost:,.1f}" for kind, cost in cost_of.items() if kind != strategy.kind)
    return (
        f"strategy {strategy.kind} ({strategy.reason}): {first_pass}; "
        f"about {cost_of[strategy.kind]:,.1f} forward passes over the corpus ({others})"
    )


def _moving(model: LoadedModel, job: ScanJob) -> dict[str, nn.Parameter]:
    """What an update of this kind moves."""
    update, adapter = job.spec.update, model.adapter
    moving = moving_parameters(adapter.module, update.moves)
    if update.kind not in ("kfac", "ekfac"):
        return moving
    layers = factored_layers(adapter.module, moving, model.head, update.embeddings)
    return {name: parameter for name, parameter in moving.items() if name.rpartition(".")[0] in layers}


def _per_query_flops(model: LoadedModel, job: ScanJob, windows: Rows, moving: Mapping[str, nn.Parameter]) -> float:
    """What a second query adds: the first one may find the trunk not yet run."""
    still = {name: torch.zeros(1).expand(parameter.shape) for name, parameter in moving.items()}
    difference: Difference = "forward" if job.update.difference == "auto" else job.update.difference
    update = MirroredUpdate(still, job.update.direction, difference, 0.0, 1, 1.0, 0.0)

    def flops(num_queries: int) -> float:
        return _count(lambda: score_rows(model.adapter, windows, [update] * num_queries, model.batch_tokens))

    return flops(2) - flops(1)


def _blank(model: LoadedModel, job: ScanJob, moving: Mapping[str, nn.Parameter], num_queries: int) -> Projection:
    adapter, strategy = model.adapter, job.spec.strategy
    layers = projectable_layers(adapter.module, moving, model.head)
    return blank_projection(last_blocks(adapter.module, layers, strategy.blocks), num_queries, strategy.rank)


def _measure(run: Callable[[], Any], compiled: bool) -> tuple[float, float]:
    """FLOPs, and the seconds of a later run; the first with the kernels of a scan may compile them."""
    flops = _count(run)
    if compiled:
        run()
    started = time.monotonic()
    run()
    return flops, time.monotonic() - started


def _count(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter, plain_kernels():
        run()
    return float(counter.get_total_flops())
