"""How far a run is, told from its objects in the store alone: from any machine, while it runs or after."""

from dataclasses import dataclass

from tasks import storage
from tasks.budget import read_spending
from tasks.bundles import kept_bundles
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.resolve_inputs import read_job
from tasks.score_shards import count_rows
from tasks.settle import settle
from tasks.solve_updates import pending_queries


@dataclass(frozen=True)
class RunStatus:
    run: str
    complete: bool
    queries_solved: int
    num_queries: int
    rows_scored: int  # or seen by the first pass, where there is one
    num_rows: int
    rows_set_aside: int  # no actor could score them: the report names them
    actor_hours: float  # of all processes that worked at it
    cost: float | None  # at --price-per-hour; None: not all of these hours have a price
    queries_rescored: int | None = None  # on the rows that a first pass kept; None where there is no first pass


def run_status(run_uri: str) -> RunStatus:
    """Raises InputError when there is no run in that folder."""
    job = settle(read_job(run_uri))
    queries = read_queries(job.queries_uri)
    rows, spending = count_rows(job), read_spending(job.spending_uri)
    return RunStatus(
        run=run_uri,
        complete=storage.exists(job.file("report.json")),
        queries_solved=len(queries) - len(pending_queries(job)),
        num_queries=len(queries),
        rows_scored=rows.scored,
        num_rows=rows.total,
        rows_set_aside=rows.set_aside,
        actor_hours=spending.actor_hours,
        cost=spending.cost,
        queries_rescored=_queries_rescored(job, len(queries)) if job.has_first_pass else None,
    )


def _queries_rescored(job: ScanJob, num_queries: int) -> int:
    if not storage.exists(job.candidates_uri):
        return 0
    return num_queries - sum(len(bundle.query_ids) for bundle in kept_bundles(job).pending())
