"""The leakage scan, in the order of the method.

resolve inputs -> check model -> fit curvature -> solve updates -> score shards -> aggregate -> publish report
"""

from dataclasses import asdict

from prefect import flow

from finf_core.spec import ScanSpec
from flows.progress_artifact import ProgressArtifact
from flows.progress_bar import ProgressBar
from flows.stage import Stages
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.aggregate import aggregate
from tasks.check_model import check_model
from tasks.fit_curvature import fit_curvature
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.publish_report import publish_report
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import pending_units, score_shards
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
        if spec.update.kind == "kfac":
            stages.once(
                "fit curvature",
                lambda: fit_curvature(job, pool),
                key=job.curvature_fingerprint,
                done=lambda: there(job.curvature_uri),
            )
        stages.once(
            "solve updates",
            lambda: solve_updates(job, pool, meter),
            key=job.scores_fingerprint,
            done=lambda: storage.exists(reported) or not pending_queries(job),
        )
        stages.once(
            "score shards",
            lambda: score_shards(job, pool, meter),
            key=job.fingerprint,
            done=lambda: storage.exists(reported) or not pending_units(job),
        )
    stages.once("aggregate", lambda: aggregate(job), key=job.fingerprint, done=lambda: there(job.totals_uri))
    timings = [asdict(timing) for timing in stages.timings]
    stages.once(
        "publish report", lambda: publish_report(job, timings), key=job.fingerprint, done=lambda: there(reported)
    )
    return job.run_uri
