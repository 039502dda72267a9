"""Self-influence of every row: no queries, and no pass over other rows.

resolve inputs -> check model -> fit curvature -> measure rows -> find groups -> measure groups -> rank rows
               -> explain rows -> publish report
"""

from prefect import flow

from finf_core.fingerprint import fingerprint
from finf_core.spec import ScanSpec
from flows.crewed import crewed, progress_log
from flows.run_stages import explain, fit_model, is_reported, is_there, look_at_model, report
from flows.stage import Stages
from tasks.actor_pool import ActorPool
from tasks.job import ScanJob
from tasks.memorized import rank_memorized
from tasks.near_duplicates import find_groups, group_bundles, measure_all_groups
from tasks.options import RunOptions
from tasks.patience import patient
from tasks.progress import Meter
from tasks.quarantine import Quarantine
from tasks.resolve_inputs import resolve_inputs
from tasks.surveys import is_surveyed, memory_survey, survey_rows
from tasks.told import Tell


@flow(name="memorize", validate_parameters=False)
def memorize(spec: ScanSpec, options: RunOptions) -> str:
    """Measure every row of the corpus and groups of near-duplicates; returns the URI of the run's folder."""
    stages = Stages()
    with progress_log() as log, patient(options.pool.max_storage_seconds, log.tell):
        job = stages.always("resolve inputs", lambda: resolve_inputs(spec, options))
        if options.retry_quarantined:
            Quarantine(job).release()
        with crewed(job, options, log) as (pool, meter):
            _measure(stages, job, pool, meter, log.tell)
            _rank(stages, job, pool, meter)
        report(stages, job)
    return job.run_uri


def _measure(stages: Stages, job: ScanJob, pool: ActorPool, meter: Meter, tell: Tell) -> None:
    look_at_model(stages, job, pool)
    fit_model(stages, job, pool)
    survey = memory_survey(job)
    stages.once(
        survey.title,
        lambda: survey_rows(job, survey, pool, meter, tell),
        key=fingerprint([survey.fingerprint, job.shards_digest]),
        done=lambda: is_reported(job) or is_surveyed(job, survey),
    )


def _rank(stages: Stages, job: ScanJob, pool: ActorPool, meter: Meter) -> None:
    stages.once(
        "find groups",
        lambda: find_groups(job),
        key=job.fingerprint,
        done=lambda: is_there(job, job.groups_uri),
    )
    stages.once(
        "measure groups",
        lambda: measure_all_groups(job, pool, meter),
        key=job.fingerprint,
        done=lambda: is_reported(job) or group_bundles(job).are_done(),
    )
    stages.once(
        "rank rows",
        lambda: rank_memorized(job),
        key=job.fingerprint,
        done=lambda: is_there(job, job.totals_uri),
    )
    explain(stages, job, pool, meter)
