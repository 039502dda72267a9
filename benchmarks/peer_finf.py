"""finf on the benchmark's inputs, with `finf_core` alone: no Ray, no Prefect, no storage, as the peers run."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.peer_inputs import Clock, PeerInputs, ToolScores
from benchmarks.peer_settings import FinfSettings
from finf_core.adjoint import row_changes
from finf_core.curvature import Curvature, fit_curvature
from finf_core.gradients import Gradients, summed_gradient
from finf_core.moving import moving_parameters
from finf_core.projection import fit_projection, projectable_layers
from finf_core.ranking import RankedRows, rank_changes, rank_rows
from finf_core.scores import Floats
from finf_core.scoring import score_rows
from finf_core.spec import RankSpec, UpdateSpec
from finf_core.updates import MirroredUpdate, mirrored_update


def run_finf(inputs: PeerInputs, settings: FinfSettings) -> ToolScores:
    """The config's own update (`kfac`), every row for every query."""
    spec = replace(inputs.spec.update, moves=f"last:{settings.blocks}" if settings.blocks else "all")
    clock = Clock()
    sample = inputs.row_windows[: settings.fit_rows]
    curvature = fit_curvature(inputs.adapter, sample, spec, settings.batch_tokens)
    fit = clock.lap()
    rank = {"forward": _forward, "one_pass": _one_pass}[settings.engine]
    ranked = rank(inputs, settings, spec, curvature)
    score = clock.lap()
    orders: dict[str, Floats] = {
        "control_z": ranked.control_z_RQ,
        "row_ratio": ranked.row_ratio_RQ,
        "mirror_ratio": ranked.mirror_ratio_RQ,
    }
    return ToolScores(ranked.score_RQ, fit, score, orders)


def _forward(inputs: PeerInputs, settings: FinfSettings, spec: UpdateSpec, curvature: Curvature | None) -> RankedRows:
    """One forward pass over the rows for each query."""
    solved: list[MirroredUpdate] = []

    def updates() -> Iterator[MirroredUpdate]:
        for query in inputs.query_windows:
            update = mirrored_update(inputs.adapter, query, spec, curvature)
            solved.append(replace(update, deltas={}))  # one set of weights at a time is enough
            yield update

    losses = score_rows(inputs.adapter, inputs.row_windows, updates(), settings.batch_tokens)
    moved_Q = np.array([update.moved_nats for update in solved])
    num_targets_Q = np.array([update.num_targets for update in solved])
    return rank_rows(losses, moved_Q, num_targets_Q, spec.direction, RankSpec())


def _one_pass(inputs: PeerInputs, settings: FinfSettings, spec: UpdateSpec, curvature: Curvature | None) -> RankedRows:
    """One forward and one backward pass over the rows for all queries. No step is solved: these ratios have none."""
    adapter = inputs.adapter
    updates = list(_directions(inputs, spec, curvature))
    layers = projectable_layers(adapter.module, updates[0], adapter.head)
    projection = fit_projection(layers, lambda: iter(updates), settings.rank)
    updates.clear()
    num_targets_Q = np.array([text.num_targets for text in inputs.queries])
    changes = row_changes(adapter, inputs.row_windows, projection, settings.batch_tokens)
    return rank_changes(changes, 1 / num_targets_Q, num_targets_Q, RankSpec())  # each moves its query by one nat


def _directions(inputs: PeerInputs, spec: UpdateSpec, curvature: Curvature | None) -> Iterator[Gradients]:
    """P·∇l̄ of each query, as large as moves the query by one nat to first order."""
    adapter = inputs.adapter
    wanted = {f"{name}.weight" for name in inputs.layer_names(0)}
    moving = {name: part for name, part in moving_parameters(adapter.module, spec.moves).items() if name in wanted}
    for query in inputs.query_windows:
        gradients = summed_gradient(adapter, [adapter.collate([window]) for window in query], moving)
        direction = gradients if curvature is None else curvature.precondition(adapter.module, gradients)
        slope = sum(float((gradients[name] * part).sum()) for name, part in direction.items())
        yield {name: part / slope for name, part in direction.items()}
