"""T = 164 HumanEval queries: what each strategy costs, and what it still finds.

The demo's corpus (functions of the Python standard library, with 40 HumanEval items planted verbatim and 60 renamed
and stripped of their docstrings, once each; 64 clean queries) and a small model trained on it. Every strategy runs all
stages of a scan in this process, without Prefect and Ray, and is graded on the planted rows.

`forward_equivalents`: FLOPs per token of the pass over all rows, over those of a forward pass of the base model (both
counted on a sample), and the tokens of the rows that were scored again, for their base and their mirrored pass.
`relative_recall_at_5`: of verbatim and renamed leaks together, over that of every query on every row (or of the
reference asked for).
`speedup_over_released_loop`: the paper's released loop scores a query by a base pass, one step of a fresh Adam
(learning rate 5e-3, all parameters) and a second pass; here with our batches and our loss, which are kind to it. It is
timed on a few queries and multiplied: each costs the same.

python -m benchmarks.many_queries [--folder F] [--functions N] [--reference R] [--variants] [--groups] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finf_core.scoring import score_rows
from finf_core.spec import RankSpec, ScanSpec, StrategySpec, UpdateSpec
from finf_core.updates import mirrored_update
from flows.demo import DemoSize, prepare_demo
from flows.environment import set_environment
from tasks.aggregate import aggregate
from tasks.bundles import kept_bundles, rescore
from tasks.check_model import check_model
from tasks.check_precision import check_precision
from tasks.checkpoint import load_language_model
from tasks.choose_strategy import choose_strategy_for, measure_passes, read_strategy
from tasks.config import load_config
from tasks.corpus import list_shards, plan_units, read_unit
from tasks.count_words import count_corpus_words
from tasks.demo.corpus import read_demo_rows
from tasks.demo.evaluate import grade_demo
from tasks.encode import encode_corpus_rows, encode_query, encode_rows
from tasks.fit_curvature import fit_curvature
from tasks.job import ScanJob
from tasks.keep_rows import keep_rows
from tasks.loaded_model import TextModel
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.project_updates import project_updates
from tasks.queries import load_queries
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import planned_units, score_shards
from tasks.settle import settle
from tasks.shard_scorer import ShardScorer
from tasks.solve_updates import solve_updates

NUM_VERBATIM, NUM_RENAMED, NUM_CLEAN = 40, 60, 64
KEPT_ROWS = (5, 20)
REFERENCES = {
    "every query": StrategySpec(kind="every_query"),
    # where that would take half an hour: all blocks and directions, which is every query to first order, then 100 rows
    "whole pass": StrategySpec(kind="one_pass", rescored_rows=100, blocks=1000, rank=1000),
}
GROUPS = ((4, 10), (4, 40), (16, 40))  # queries in a group, rows kept
RELEASED = UpdateSpec(kind="adam", learning_rate=5e-3)
RELEASED_QUERIES = 2


class InlinePool:
    """`tasks.actor_pool.ActorPool` with one actor: this process."""

    def __init__(self, job: ScanJob) -> None:
        self.scorer = ShardScorer(job)

    def map(self, method: str, units: Iterable[Any], **_: Any) -> Iterator[tuple[Any, Any]]:
        for unit in units:
            yield unit, getattr(self.scorer, method)(unit)


def run_strategy(spec: ScanSpec, store: str) -> tuple[ScanJob, dict[str, float]]:
    """All stages of a scan; the job as settled, and seconds by stage. What the store holds is not done again."""
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = work()
        seconds[stage] = round(time.monotonic() - started, 2)
        return result

    job = timed("resolve inputs", lambda: resolve_inputs(spec, RunOptions(store=store)))
    pool: Any = timed("load model", lambda: InlinePool(job))
    meter = Meter()
    timed("check model", lambda: check_model(job, pool))
    timed("fit curvature", lambda: fit_curvature(job, pool))
    timed("count words", lambda: count_corpus_words(job, pool))
    timed("check precision", lambda: check_precision(job, pool))
    timed("choose strategy", lambda: choose_strategy_for(job, pool))
    job = settle(job)
    timed("solve updates", lambda: solve_updates(job, pool, meter))
    if job.has_first_pass and job.first_pass.kind == "one_pass":
        timed("project updates", lambda: project_updates(job, pool))
    timed("score shards", lambda: score_shards(job, pool, meter))
    if job.has_first_pass:
        timed("keep rows", lambda: keep_rows(job))
        timed("score kept rows", lambda: rescore(job, pool, meter))
    timed("aggregate", lambda: aggregate(job))
    return job, seconds


def forward_equivalents(model: TextModel, job: ScanJob, tokens: dict[tuple[str, int], int]) -> dict[str, float]:
    """Per corpus row, of the pass over all rows and of the kept rows; `tokens` by shard and row."""
    first_pass = {cost.kind: cost.first_pass for cost in read_strategy(job).costs}[job.first_pass.kind]
    if job.first_pass.kind == "one_pass":  # counted anew on a whole unit, not on the first rows alone
        costs = measure_passes(model, job, list(planned_units(job))[:4], len(load_queries(job.spec.queries)))
        first_pass = costs.one_pass_equivalents or first_pass
    if not job.has_first_pass:
        return {"first_pass": first_pass, "kept_rows": 0.0, "total": first_pass}
    query_ids = [query.query_id for query in load_queries(job.spec.queries)]
    kept = sum(
        tokens[line["shard"], line["row"]] for lines in kept_bundles(job).lines(query_ids).values() for line in lines
    )
    kept_rows = kept / sum(tokens.values())  # a mirrored pass; the base pass came with the first pass
    return {"first_pass": first_pass, "kept_rows": kept_rows, "total": first_pass + kept_rows}


def count_tokens(model: TextModel, spec: ScanSpec) -> dict[tuple[str, int], int]:
    """Of every row, by shard and row."""
    tokens = {}
    for unit in plan_units(list_shards(spec.corpus)):
        for rows in read_unit(unit, spec.corpus, model.chat):
            for row, windows in zip(rows, encode_corpus_rows(model, spec.model, rows, unit.shard), strict=True):
                tokens[unit.shard, row.row] = sum(map(len, windows))
    return tokens


def recalls(run_uri: str, folder: Path) -> dict[str, float]:
    """Recall@1 and @5 of each kind of leak, and of both together."""
    kinds = grade_demo(run_uri, folder)["kinds"]
    found = {f"{kind}_at_{k}": kinds[kind][f"recall_at_{k}"] for kind in ("verbatim", "renamed") for k in (1, 5)}
    for k in (1, 5):
        verbatim, renamed = found[f"verbatim_at_{k}"], found[f"renamed_at_{k}"]
        found[f"all_at_{k}"] = (NUM_VERBATIM * verbatim + NUM_RENAMED * renamed) / (NUM_VERBATIM + NUM_RENAMED)
    return found


def released_loop_seconds(model: TextModel, spec: ScanSpec, texts: list[str]) -> float:
    """The released recipe on `RELEASED_QUERIES` queries, scaled to all of them."""
    rows, queries = encode_rows(model, spec.model, texts), load_queries(spec.queries)
    started = time.monotonic()
    for query in queries[:RELEASED_QUERIES]:
        windows = encode_query(model, spec.model, query)
        score_rows(model.adapter, rows, [mirrored_update(model.adapter, windows, RELEASED)], model.batch_tokens)
    return (time.monotonic() - started) / RELEASED_QUERIES * len(queries)


def strategies(reference: str, with_groups: bool, with_variants: bool) -> Iterator[tuple[str, StrategySpec]]:
    yield reference, REFERENCES[reference]
    yield "one pass", StrategySpec(kind="one_pass")
    for kept in KEPT_ROWS if with_variants else ():
        yield f"one pass, {kept} rows", StrategySpec(kind="one_pass", rescored_rows=kept)
    if with_variants:
        yield "one pass over all blocks", StrategySpec(kind="one_pass", blocks=1000)
        yield "one pass, rank 32", StrategySpec(kind="one_pass", rank=32)
    if with_groups:
        for size, kept in GROUPS:
            yield f"groups of {size}, {kept} rows", StrategySpec(kind="grouped", group_size=size, rescored_rows=kept)


def measure(
    folder: Path, num_functions: int, by: str, reference: str, with_groups: bool, with_variants: bool
) -> dict[str, Any]:
    """Every strategy on one corpus."""
    chosen = list(strategies(reference, with_groups, with_variants))
    size = DemoSize(num_functions, NUM_VERBATIM, NUM_RENAMED, NUM_CLEAN)
    base = load_config(prepare_demo(folder, size))
    model = load_language_model(base.model)
    tokens = count_tokens(model, base)
    released = released_loop_seconds(model, base, [row.text for row in read_demo_rows(folder / "corpus")])
    found: dict[str, Any] = {"num_rows": len(tokens), "num_tokens": sum(tokens.values()), "released_seconds": released}
    for name, strategy in chosen:
        order = "row_ratio" if strategy.kind == "grouped" else by
        spec = replace(base, rank=RankSpec(by=order, top_k=20 if name == reference else 5), strategy=strategy)
        # a store of its own: each strategy pays for its curvature and its updates
        job, seconds = run_strategy(spec, str(folder / "stores" / name.replace(" ", "-").replace(",", "")))
        entry = {
            "forward_equivalents": forward_equivalents(model, job, tokens),
            "recall": recalls(job.run_uri, folder),
            "seconds": seconds | {"all": sum(seconds.values())},
        }
        found[name] = entry | {"speedup_over_released_loop": released / entry["seconds"]["all"]}
        print(f"{num_functions} functions, {name}: {json.dumps(found[name])}", flush=True)
    for name, _ in chosen:
        mine, every = found[name]["recall"], found[reference]["recall"]
        found[name]["relative_recall_at_5"] = mine["all_at_5"] / every["all_at_5"]
        found[name]["relative_recall_at_5_renamed"] = mine["renamed_at_5"] / every["renamed_at_5"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs/many-queries"))
    parser.add_argument("--functions", type=int, nargs="+", default=[2000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--by", default="control_z", help="order of rows: control_z, row_ratio or mirror_ratio")
    parser.add_argument(
        "--reference", default="every query", choices=list(REFERENCES), help="what recall is relative to"
    )
    parser.add_argument("--groups", action="store_true", help="measure group screening too: minutes more")
    parser.add_argument("--variants", action="store_true", help="other numbers of kept rows, blocks and directions")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_environment()
    torch.set_num_threads(arguments.threads)
    result = {
        str(num): measure(
            arguments.folder / str(num), num, arguments.by, arguments.reference, arguments.groups, arguments.variants
        )
        for num in arguments.functions
    }
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
