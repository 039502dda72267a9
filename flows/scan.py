"""The leakage scan, in the order of the method.

resolve inputs -> check model -> fit curvature -> count words -> check precision -> choose strategy
               -> solve updates -> score shards -> aggregate -> explain rows -> publish report

With a first pass (`finf_core.strategy`), "score shards" is that pass over all rows; single queries are then scored on
the rows that it keeps:          -> project updates -> score shards -> keep rows -> score kept rows ->
Where rows are ranked by harm (kind "mislabel"): -> score shards -> judge labels -> aggregate -> rank suspects ->
"""

import httpx
from prefect import flow
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.settings import PREFECT_API_URL

from finf_core.errors import FinfError
from finf_core.fingerprint import fingerprint
from finf_core.spec import ScanSpec
from flows.crewed import crewed, progress_log
from flows.guard import guard_children
from flows.memorize import memorize
from flows.run_stages import explain, fit_model, is_reported, is_there, look_at_model, report
from flows.stage import Stages
from flows.stop import StoppedError
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.aggregate import aggregate
from tasks.bundles import kept_bundles, rescore
from tasks.check_precision import check_precision
from tasks.choose_strategy import choose_strategy_for
from tasks.count_words import count_corpus_words
from tasks.job import ScanJob
from tasks.keep_rows import keep_rows
from tasks.options import RunOptions
from tasks.patience import patient
from tasks.progress import Meter
from tasks.project_updates import project_updates
from tasks.publish_report import describe_checks
from tasks.quarantine import Quarantine
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import is_scored, score_shards
from tasks.settle import settle
from tasks.solve_updates import pending_queries, solve_updates
from tasks.surveys import Survey, is_surveyed, labels_survey, survey_rows
from tasks.suspects import rank_suspects
from tasks.told import Tell
from tasks.true_rows import find_true_rows

NOBODY_THERE = "Failed to reach API"  # all that Prefect's bare RuntimeError says of it


def run_scan(spec: ScanSpec, options: RunOptions) -> str:
    """Run the flow, and judge its end by the store: a Prefect server that is away cannot undo a complete run.

    Raises:
        StoppedError: the process was asked to end (SIGTERM).
        FinfError: whatever went wrong; a Prefect server that does not answer, too.
    """
    guard_children()
    try:
        return memorize(spec, options) if spec.kind == "memorize" else scan(spec, options)
    except TerminationSignal as stop:
        raise StoppedError from stop
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and NOBODY_THERE not in str(error):
            raise
        job = resolve_inputs(spec, options)
        if is_reported(job):
            return job.run_uri
        raise FinfError(
            f"the Prefect server ({PREFECT_API_URL.value() or 'of this run'}) does not answer: {type(error).__name__}; "
            "what is finished is kept: run again, or unset PREFECT_API_URL to do without that server"
        ) from error


@flow(name="scan", validate_parameters=False)
def scan(spec: ScanSpec, options: RunOptions) -> str:
    """Score every row of the corpus against every query; returns the URI of the run's folder."""
    stages = Stages()
    with progress_log() as log, patient(options.pool.max_storage_seconds, log.tell):
        job = stages.always("resolve inputs", lambda: resolve_inputs(spec, options))
        if options.retry_quarantined:
            Quarantine(job).release()
        with crewed(job, options, log) as (pool, meter):
            _check(stages, job, pool)
            settled = settle(job)
            for check in describe_checks(settled) if storage.exists(job.strategy_uri) else []:
                log.tell(check)
            _score(stages, settled, pool, meter, log.tell)
            if spec.kind == "mislabel":
                _survey(stages, settled, labels_survey(settled), pool, meter, log.tell)
            _judge(stages, settled, pool, meter)
        report(stages, settled)
    return job.run_uri


def _check(stages: Stages, job: ScanJob, pool: ActorPool) -> None:
    """Before anything is paid for: model, curvature, precision, strategy."""
    look_at_model(stages, job, pool)
    if job.spec.truth.is_given:
        stages.once(
            "find true rows",
            lambda: find_true_rows(job),
            key=job.fingerprint,
            done=lambda: is_there(job, job.truth_uri),
        )
    fit_model(stages, job, pool)
    if job.spec.rank.lexical_k:
        stages.once(
            "count words",
            lambda: count_corpus_words(job, pool),
            key=job.words_fingerprint,
            done=lambda: is_there(job, job.words_uri),
        )
    stages.once(
        "check precision",
        lambda: check_precision(job, pool),
        key=job.fingerprint,
        done=lambda: is_there(job, job.precision_uri),
    )
    stages.once(
        "choose strategy",
        lambda: choose_strategy_for(job, pool),
        key=job.fingerprint,
        done=lambda: is_there(job, job.strategy_uri),
    )


def _score(stages: Stages, settled: ScanJob, pool: ActorPool, meter: Meter, tell: Tell) -> None:
    """Updates, the pass over all rows, and single queries on what it keeps, where it is a first pass."""
    stages.once(
        "solve updates",
        lambda: solve_updates(settled, pool, meter),
        key=settled.scores_fingerprint,
        done=lambda: is_reported(settled) or not pending_queries(settled),
    )
    if settled.has_first_pass and settled.first_pass.kind == "one_pass":
        stages.once(
            "project updates",
            lambda: project_updates(settled, pool),
            key=settled.scores_fingerprint,
            done=lambda: is_there(settled, settled.projection_uri),
        )
    stages.once(
        "score shards",
        lambda: score_shards(settled, pool, meter, tell),
        key=settled.scores_fingerprint,
        done=lambda: is_reported(settled) or is_scored(settled),
    )
    if not settled.has_first_pass:
        return
    stages.once(
        "keep rows",
        lambda: keep_rows(settled),
        key=settled.fingerprint,
        done=lambda: is_there(settled, settled.candidates_uri),
    )
    stages.once(
        "score kept rows",
        lambda: rescore(settled, pool, meter),
        key=settled.kept_fingerprint,
        done=lambda: is_reported(settled) or kept_bundles(settled).are_done(),
    )


def _survey(stages: Stages, settled: ScanJob, survey: Survey, pool: ActorPool, meter: Meter, tell: Tell) -> None:
    """One more pass over all rows, for what is asked of a row alone."""
    stages.once(
        survey.title,
        lambda: survey_rows(settled, survey, pool, meter, tell),
        key=fingerprint([survey.title, survey.fingerprint, settled.shards_digest]),
        done=lambda: is_reported(settled) or is_surveyed(settled, survey),
    )


def _judge(stages: Stages, settled: ScanJob, pool: ActorPool, meter: Meter) -> None:
    """Verdicts, and what the report shows of their rows."""
    stages.once(
        "aggregate",
        lambda: aggregate(settled),
        key=settled.fingerprint,
        done=lambda: is_there(settled, settled.totals_uri),
    )
    if settled.spec.kind == "mislabel":
        stages.once(
            "rank suspects",
            lambda: rank_suspects(settled),
            key=settled.fingerprint,
            done=lambda: is_there(settled, settled.suspects_uri),
        )
    explain(stages, settled, pool, meter)
