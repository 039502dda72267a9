"""Every stage of a run, in this process: no Ray, no Prefect."""

from pathlib import Path
from typing import NamedTuple

import scan_example

from finf_core.spec import WITHOUT_CURVATURE, ScanSpec
from tasks.aggregate import aggregate
from tasks.bundles import kept_bundles
from tasks.job import ScanJob
from tasks.keep_rows import keep_rows
from tasks.publish_report import publish_report
from tasks.queries import read_queries
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import planned_units
from tasks.settle import settle
from tasks.shard_scorer import ShardScorer
from tasks.shown_rows import publish_shown, shown_bundles


class WholeRun(NamedTuple):
    job: ScanJob
    scorer: ShardScorer  # that did it


def run_job(
    spec: ScanSpec, store: Path, batch_tokens: int = 1024, backwards: bool = False, with_report: bool = True
) -> WholeRun:
    """
    Args:
        backwards: the units in the other order.
    """
    job = resolve_inputs(spec, scan_example.run_options(str(store), batch_tokens=batch_tokens))
    scorer = ShardScorer(job)
    units = list(planned_units(job))
    scorer.check_model(units[0])
    if spec.update.kind not in WITHOUT_CURVATURE:
        scorer.fit_curvature(job)
    if spec.rank.lexical_k:
        scorer.count_words(job)
    scorer.check_precision(units[0])
    scorer.choose_strategy(units[0])
    job = settle(job)
    for query in read_queries(job.queries_uri):
        scorer.solve_update(query)
    if job.has_first_pass and job.first_pass.kind == "one_pass":
        scorer.project_updates(job)
    for unit in reversed(units) if backwards else units:
        scorer.score(unit)
    if job.has_first_pass:
        keep_rows(job)
        for bundle in kept_bundles(job).planned():
            scorer.rescore(bundle)
    aggregate(job)
    publish_shown(job)
    for bundle in shown_bundles(job).planned():
        scorer.explain(bundle)
    if with_report:
        publish_report(job, [])
    return WholeRun(job, scorer)
