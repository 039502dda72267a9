"""Score rows against queries: one forward pass of the base model, one of each mirrored model.

Name suffixes: R rows, Q queries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finf_core.adapter import Adapter
from finf_core.batches import plan_batches
from finf_core.moving import Deltas, moved
from finf_core.scores import Floats, Ints


@dataclass(frozen=True)
class RowLosses:
    """Sums over each row's targets, before and after each mirrored update."""

    base_nats_R: Floats
    num_targets_R: Ints
    mirrored_nats_RQ: Floats


def score_rows(
    adapter: Adapter, rows: Sequence[Sequence[Any]], updates: Iterable[Deltas], batch_tokens: int
) -> RowLosses:
    """Losses of every row under the base model and under each update.

    Args:
        rows: each row as its examples (windows); a row without examples has no targets.
        updates: what each query adds to the parameters; read once, one at a time.
        batch_tokens: padded tokens in one forward pass. Base and mirrored passes use the same batches.
    """
    examples = [example for row in rows for example in row]
    row_of_example = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    plan = plan_batches([len(example) for example in examples], batch_tokens)
    batches = [(adapter.collate([examples[index] for index in batch]), row_of_example[batch]) for batch in plan]

    def pass_over_rows() -> tuple[Floats, Ints]:
        nats, targets = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
        with torch.inference_mode():
            for batch, row_of in batches:
                loss = adapter.loss(batch)
                np.add.at(nats, row_of, loss.sum_nats.double().cpu().numpy())
                np.add.at(targets, row_of, loss.num_targets.cpu().numpy())
        return nats, targets

    base_nats, num_targets = pass_over_rows()
    mirrored = []
    for deltas in updates:
        with moved(adapter.module, deltas):
            mirrored.append(pass_over_rows()[0])
    return RowLosses(base_nats, num_targets, np.stack(mirrored, axis=1) if mirrored else np.zeros((len(rows), 0)))
