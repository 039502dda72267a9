"""The leakage scan, in the order of the method.

resolve inputs -> check model -> fit curvature -> check precision -> choose strategy
               -> solve updates -> score shards -> aggregate -> publish report

With a first pass (`finf_core.strategy`), "score shards" is that pass over all rows; single queries are then scored on
the rows that it keeps:          -> project updates -> score shards -> keep rows -> score kept rows ->
"""

from dataclasses import asdict

from prefect import flow

from finf_core.spec import WITHOUT_CURVATURE, ScanSpec
from flows.progress_artifact import ProgressArtifact
from flows.progress_bar import ProgressBar
from flows.stage import Stages
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.aggregate import aggregate
from tasks.bundles import is_rescored, rescore
from tasks.check_model import check_model
from tasks.check_precision import check_precision
from tasks.choose_strategy import choose_strategy_for
from tasks.curvature_store import is_complete
from tasks.fit_curvature import fit_curvature
from tasks.keep_rows import keep_rows
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.project_updates import project_updates
from tasks.publish_report import describe_checks, publish_report
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import is_scored, score_shards
from tasks.settle import settle
from tasks.shard_scorer import ShardScorer
from tasks.solve_updates import pending_queries, solve_updates


@flow(name="scan", validate_parameters=False)
def scan(spec: ScanSpec, options: RunOptions) -> str:
    """Score every row of the corpus against every query; returns the URI of the run's folder."""
    stages = Stages()
    job = stages.always("resolve inputs", lambda: resolve_inputs(spec, options))
    reported = job.file("report.json")

    def there(uri: str) -> bool:
        return storage.exists(uri) or storage.exists(reported)

    with ActorPool(ShardScorer, (job,), options.pool) as pool, ProgressBar() as bar:
        meter = Meter(bar, ProgressArtifact(spec.name))
        stages.once(
            "check model",
            lambda: check_model(job, pool),
            key=job.fingerprint,
            done=lambda: there(job.model_check_uri),
        )
        if spec.update.kind not in WITHOUT_CURVATURE:
            stages.once(
                "fit curvature",
                lambda: fit_curvature(job, pool),
                key=job.curvature_fingerprint,
                done=lambda: is_complete(job.curvature_uri) or storage.exists(reported),
            )
        stages.once(
            "check precision",
            lambda: check_precision(job, pool),
            key=job.fingerprint,
            done=lambda: there(job.precision_uri),
        )
        stages.once(
            "choose strategy",
            lambda: choose_strategy_for(job, pool),
            key=job.fingerprint,
            done=lambda: there(job.strategy_uri),
        )
        settled = settle(job)
        for check in describe_checks(settled) if storage.exists(job.strategy_uri) else []:
            bar.console.print(check, highlight=False, soft_wrap=True)
        stages.once(
            "solve updates",
            lambda: solve_updates(settled, pool, meter),
            key=settled.scores_fingerprint,
            done=lambda: storage.exists(reported) or not pending_queries(settled),
        )
        if settled.has_first_pass and settled.first_pass.kind == "one_pass":
            stages.once(
                "project updates",
                lambda: project_updates(settled, pool),
                key=settled.scores_fingerprint,
                done=lambda: there(settled.projection_uri),
            )
        stages.once(
            "score shards",
            lambda: score_shards(settled, pool, meter),
            key=settled.scores_fingerprint,
            done=lambda: storage.exists(reported) or is_scored(settled),
        )
        if settled.has_first_pass:
            stages.once(
                "keep rows",
                lambda: keep_rows(settled),
                key=job.fingerprint,
                done=lambda: there(settled.candidates_uri),
            )
            stages.once(
                "score kept rows",
                lambda: rescore(settled, pool, meter),
                key=settled.kept_fingerprint,
                done=lambda: storage.exists(reported) or is_rescored(settled),
            )
    stages.once("aggregate", lambda: aggregate(settled), key=job.fingerprint, done=lambda: there(job.totals_uri))
    timings = [asdict(timing) for timing in stages.timings]
    stages.once(
        "publish report", lambda: publish_report(settled, timings), key=job.fingerprint, done=lambda: there(reported)
    )
    return job.run_uri
