"""Project the updates of all queries (`finf_core.projection`), once for all actors: one object in the store."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from safetensors.torch import save

from finf_core.adjoint import row_changes
from finf_core.errors import InputError
from finf_core.moving import Deltas
from finf_core.projection import Projection, fit_projection, last_blocks, projectable_layers
from finf_core.scores import Floats, sign
from tasks import storage
from tasks.actor_pool import ActorPool
from tasks.encode import encode_query
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel
from tasks.queries import Query
from tasks.tensors import read_tensors
from tasks.update_store import UpdateReader

QUERIES_AT_ONCE = 256  # whose changes under all updates are held
MOVED = "moved"  # of each query's own loss under the projected update, nats per target


def project_updates(job: ScanJob, pool: ActorPool) -> str:
    """Have one actor project and publish; returns the URI."""
    list(pool.map("project_updates", [job]))
    return job.projection_uri


def project_on_actor(model: LoadedModel, job: ScanJob, queries: Sequence[Query], updates: UpdateReader) -> None:
    """Project the updates, measure each on its own query, and publish.

    Raises:
        InputError: the projection keeps nothing of some query's update.
    """
    spec, adapter = job.first_pass, model.adapter
    direction = sign(job.update.direction)

    def scaled() -> Iterator[Deltas]:
        """Signed as scores are, and each as large as moves its query by one nat per target."""
        for query in queries:
            update = updates.read(query.digest)
            yield {name: direction / update.moved_nats * delta for name, delta in update.deltas.items()}

    layers = projectable_layers(adapter.module, updates.read(queries[0].digest).deltas, model.head)
    projection = fit_projection(last_blocks(adapter.module, layers, spec.blocks), scaled, spec.rank)
    moved_Q = _own_changes(model, job, queries, projection)
    if not (moved_Q > 0).all():
        lost = queries[int(np.argmin(moved_Q))].query_id
        raise InputError(
            f"the first pass keeps nothing of the update of query {lost!r}: raise strategy.rank (now {spec.rank}) or "
            "strategy.blocks, or use strategy.kind = 'every_query'"
        )
    storage.publish_bytes(job.projection_uri, save(projection.tensors() | {MOVED: torch.from_numpy(moved_Q)}))


def _own_changes(model: LoadedModel, job: ScanJob, queries: Sequence[Query], projection: Projection) -> Floats:
    """How far each query's own loss moves under its own projected update: (Q,) nats per target."""
    moved: list[Floats] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        windows = [encode_query(model, job.spec.model, query) for query in some]
        changes = row_changes(model.adapter, windows, projection, model.gradient_batch_tokens)
        own = np.arange(len(some))
        moved.append(changes.change_RQ[own, start + own] / changes.num_targets_R)
    return np.concatenate(moved)


def read_projection(job: ScanJob) -> tuple[Projection, Floats]:
    """The projection, and how far each query's own loss moves under it: (Q,) nats per target."""
    tensors = read_tensors(job.projection_uri)
    moved_Q: Floats = tensors.pop(MOVED).double().numpy()
    return Projection.from_tensors(tensors), moved_Q
