"""The stages that every kind of run has, and when each is done: told from the store alone."""

from dataclasses import asdict

from finf_core.spec import WITHOUT_CURVATURE
from flows.stage import Stages
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.check_model import check_model
from tasks.curvature_store import is_complete
from tasks.fit_curvature import fit_curvature
from tasks.job import ScanJob
from tasks.progress import Meter
from tasks.publish_report import publish_report
from tasks.shown_rows import explain_rows, shown_bundles


def look_at_model(stages: Stages, job: ScanJob, pool: ActorPool) -> None:
    stages.once(
        "check model",
        lambda: check_model(job, pool),
        key=job.fingerprint,
        done=lambda: is_there(job, job.model_check_uri),
    )


def fit_model(stages: Stages, job: ScanJob, pool: ActorPool) -> None:
    if job.spec.update.kind not in WITHOUT_CURVATURE:
        stages.once(
            "fit curvature",
            lambda: fit_curvature(job, pool),
            key=job.curvature_fingerprint,
            done=lambda: is_complete(job.curvature_uri) or is_reported(job),
        )


def explain(stages: Stages, job: ScanJob, pool: ActorPool, meter: Meter) -> None:
    stages.once(
        "explain rows",
        lambda: explain_rows(job, pool, meter),
        key=job.fingerprint,
        done=lambda: is_reported(job) or shown_bundles(job).are_done(),
    )


def report(stages: Stages, job: ScanJob) -> None:
    timings = [asdict(timing) for timing in stages.timings]
    stages.once(
        "publish report",
        lambda: publish_report(job, timings),
        key=job.fingerprint,
        done=lambda: is_reported(job),
    )


def is_reported(job: ScanJob) -> bool:
    return storage.exists(job.file("report.json"))


def is_there(job: ScanJob, uri: str) -> bool:
    """A product is there, or no longer needed."""
    return storage.exists(uri) or is_reported(job)
