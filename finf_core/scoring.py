"""Score rows against queries: one forward pass of the base model, one of each mirrored model.

Name suffixes: N targets of all rows, row after row; R rows, Q queries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finf_core.adapter import Adapter
from finf_core.batches import plan_batches
from finf_core.differences import mirrored_nats, target_nats
from finf_core.scores import Floats, Ints, influence_score
from finf_core.spans import best_span_nats
from finf_core.trunk import KEPT_BYTES, SharedTrunk
from finf_core.updates import MirroredUpdate


@dataclass(frozen=True)
class BaseNats:
    """What the targets of some rows cost the base model: known once, it need not be asked again."""

    nats_N: Floats
    num_targets_E: Ints  # of each example (window)


@dataclass(frozen=True)
class RowLosses:
    """What each row's targets cost, before and after each mirrored update."""

    base_nats_R: Floats
    num_targets_R: Ints
    mirrored_nats_RQ: Floats
    span_nats_RQ: Floats  # signed change of the row's best span of as many targets as the query has
    base_nats_N: Floats
    num_targets_E: Ints  # of each example (window), row after row

    @property
    def base(self) -> BaseNats:
        """For another call with the same rows and batches."""
        return BaseNats(self.base_nats_N, self.num_targets_E)


def score_rows(
    adapter: Adapter,
    rows: Sequence[Sequence[Any]],
    updates: Iterable[MirroredUpdate],
    batch_tokens: int,
    share_trunk: bool = True,
    base: BaseNats | None = None,
) -> RowLosses:
    """Losses of every row under the base model and under each update.

    Args:
        rows: each row as its examples (windows), in order; a row without examples has no targets.
        updates: read once, one at a time; the first one before the base pass.
        batch_tokens: padded tokens in one forward pass. Base and mirrored passes use the same batches.
        share_trunk: run the blocks below the moved ones once for all updates (`finf_core.trunk`); changes no loss.
        base: `RowLosses.base` of an earlier call with the same model, rows and batches; no base pass is run then.
    """
    trunk = SharedTrunk(adapter, KEPT_BYTES if share_trunk else 0)
    stream = iter(updates)
    first = list(islice(stream, 1))
    for update in first:
        trunk.expect(update.deltas)
    row_pass = _RowPass(trunk, rows, batch_tokens, base)
    base_N, row_of_target_N = row_pass.in_order(row_pass.base)
    num_targets_R = np.bincount(row_of_target_N, minlength=len(rows))
    mirrored: list[Floats] = []
    spans: list[Floats] = []
    for update in chain(first, stream):
        trunk.move(update.deltas)
        change = mirrored_nats(trunk, row_pass.batches, update.deltas, update.difference, row_pass.base)
        mirrored_N, _ = row_pass.in_order(change)
        change_N = influence_score(base_N, mirrored_N, update.direction)
        mirrored.append(_sum_rows(mirrored_N, row_of_target_N, len(rows)))
        spans.append(best_span_nats(change_N, num_targets_R, update.num_targets))
    none_RQ = np.zeros((len(rows), 0))
    return RowLosses(
        base_nats_R=_sum_rows(base_N, row_of_target_N, len(rows)),
        num_targets_R=num_targets_R,
        mirrored_nats_RQ=np.stack(mirrored, axis=1) if mirrored else none_RQ,
        span_nats_RQ=np.stack(spans, axis=1) if spans else none_RQ,
        base_nats_N=base_N,
        num_targets_E=row_pass.num_targets_E,
    )


def target_changes(
    adapter: Adapter, rows: Sequence[Sequence[Any]], update: MirroredUpdate, batch_tokens: int
) -> list[Floats]:
    """What each target of each row loses by an update: nats, positive where unlearning the query hurts."""
    trunk = SharedTrunk(adapter, KEPT_BYTES)
    trunk.expect(update.deltas)
    row_pass = _RowPass(trunk, rows, batch_tokens, None)
    base_N, row_of_target_N = row_pass.in_order(row_pass.base)
    trunk.move(update.deltas)
    mirrored = mirrored_nats(trunk, row_pass.batches, update.deltas, update.difference, row_pass.base)
    change_N = influence_score(base_N, row_pass.in_order(mirrored)[0], update.direction)
    return np.split(change_N, np.cumsum(np.bincount(row_of_target_N, minlength=len(rows)))[:-1])


def _sum_rows(nats_N: Floats, row_of_target_N: Ints, num_rows: int) -> Floats:
    return np.bincount(row_of_target_N, nats_N, num_rows).astype(np.float64)


class _RowPass:
    """The rows as batches, made once and run many times; `base` is what they cost the base model."""

    def __init__(
        self, adapter: Adapter, rows: Sequence[Sequence[Any]], batch_tokens: int, base: BaseNats | None
    ) -> None:
        row_of_example = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        examples = [example for row in rows for example in row]
        self.plan = plan_batches([len(example) for example in examples], batch_tokens)
        collated = (adapter.collate([examples[index] for index in indices]) for indices in self.plan)
        self.batches: list[Any] = []
        if base is None:
            losses = []
            for batch in collated:  # a GPU works on one while the next is made
                self.batches.append(batch)
                with torch.inference_mode():
                    losses.append(adapter.loss(batch))
            self.base = [target_nats(loss) for loss in losses]
            counts = torch.cat([torch.zeros(0, dtype=torch.int64), *(loss.num_targets.cpu() for loss in losses)])
            self._find_order(counts.numpy())
        else:
            self.batches += collated
            self._find_order(base.num_targets_E[self._planned])
            self.base = self._in_batches(base.nats_N, adapter)
        self.row_of_target_N = np.repeat(row_of_example, self.num_targets_E)

    @property
    def _planned(self) -> Ints:
        """The examples in the order of the batches."""
        return np.array([index for indices in self.plan for index in indices], dtype=np.int64)

    def _find_order(self, planned_targets: Ints) -> None:
        """Where each target of the rows, in order, stands among those of the batches."""
        self.num_targets_E = np.zeros_like(planned_targets)
        self.num_targets_E[self._planned] = planned_targets
        ends_E = np.cumsum(self.num_targets_E)
        planned_ends = np.cumsum(planned_targets)
        first_E = np.zeros_like(planned_targets)
        first_E[self._planned] = planned_ends - planned_targets
        within_N = np.arange(self.num_targets_E.sum()) - np.repeat(ends_E - self.num_targets_E, self.num_targets_E)
        self.order_N = np.repeat(first_E, self.num_targets_E) + within_N

    def _in_batches(self, nats_N: Floats, adapter: Adapter) -> list[Tensor]:
        planned = np.empty_like(nats_N)
        planned[self.order_N] = nats_N
        per_batch = [int(self.num_targets_E[indices].sum()) for indices in self.plan]
        device = next(adapter.module.parameters()).device
        return list(torch.from_numpy(planned).to(device).split(per_batch))

    def in_order(self, nats_of_batch: Sequence[Tensor]) -> tuple[Floats, Ints]:
        """Nats of every target, row after row, and the row of each."""
        nats = torch.cat([torch.zeros(0, dtype=torch.float64), *(nats.cpu() for nats in nats_of_batch)])
        return nats.numpy()[self.order_N], self.row_of_target_N
