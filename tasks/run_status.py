"""How far a run is, told from its objects in the store alone: from any machine, while it runs or after."""

from dataclasses import dataclass

from tasks import storage
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
    rows_scored: int
    num_rows: int


def run_status(run_uri: str) -> RunStatus:
    """Raises InputError when there is no run in that folder."""
    job = settle(read_job(run_uri))
    queries = read_queries(job.queries_uri)
    rows_scored, num_rows = count_rows(job)
    return RunStatus(
        run=run_uri,
        complete=storage.exists(job.file("report.json")),
        queries_solved=len(queries) - len(pending_queries(job)),
        num_queries=len(queries),
        rows_scored=rows_scored,
        num_rows=num_rows,
    )
