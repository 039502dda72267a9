"""Solve the mirrored update of every query once; a new query pays for itself only."""

from finf_core.curvature import Curvature
from finf_core.errors import InputError
from finf_core.updates import mirrored_update
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.encode import encode_query
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.progress import Meter
from tasks.queries import Query, read_queries
from tasks.update_store import publish_update


def pending_queries(job: ScanJob) -> list[Query]:
    """Queries whose update is not in the store; two with the same text need one."""
    done = storage.list_names(job.updates_uri)
    queries = read_queries(job.queries_uri)
    missing = {query.digest: query for query in queries if f"{query.digest}.json" not in done}
    return list(missing.values())


def solve_updates(job: ScanJob, pool: ActorPool, meter: Meter) -> str:
    """Have the actors solve and publish what is missing; returns the folder."""
    pending = pending_queries(job)
    meter.start("solve updates", total=len(pending), unit="queries")
    for _ in pool.map("solve_update", pending):
        meter.advance(1)
    return job.updates_uri


def solve_one_update(model: LoadedModel, curvature: Curvature | None, job: ScanJob, query: Query) -> None:
    """On the actor: solve and publish the update of one query."""
    windows = encode_query(model, job.spec.model, query)
    try:
        update = mirrored_update(model.adapter, windows, job.update, curvature)
    except InputError as error:
        raise InputError(f"query {query.query_id!r}: {error}") from error
    publish_update(job.updates_uri, query.digest, update, job.update.rank)
