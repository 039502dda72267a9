"""The one-pass engine: how a row's loss changes under every query's update, from one forward and one backward pass.

To first order an update Δ changes the loss of a row by Σ_layers Σ_t g_tᵀ Δ a_t, where a_t is what reaches the layer at
position t and g_t the gradient of the row's loss at its output. With Δ_q = U C_q Vᵀ (`finf_core.projection`) that is
⟨C_q, Σ_t (Uᵀg_t)(Vᵀa_t)ᵀ⟩: the sum is taken once for all queries. No gradient of a parameter is formed.

Name suffixes: R rows, Q queries, B examples, T positions, P blocks of consecutive positions, C positions of a block,
O outputs and I inputs of a layer, K and J what the projection keeps of them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finf_core.adapter import Adapter
from finf_core.batches import plan_batches
from finf_core.differences import target_nats
from finf_core.errors import InputError
from finf_core.layers import input_rows, output_rows
from finf_core.losses import ExampleLoss
from finf_core.projection import LayerProjection, Projection
from finf_core.recording import Recorder, recording
from finf_core.scores import Floats, Ints
from finf_core.scoring import BaseNats
from finf_core.wide import wide

Item = TypeVar("Item")

BLOCK_POSITIONS = 64  # the change of a row is also taken over blocks of so many: a copy may be a small part of a row


@dataclass(frozen=True)
class RowChanges:
    """First-order changes of each row's loss, in nats, for updates as the projection holds them."""

    num_targets_R: Ints
    base: BaseNats  # comes with the pass
    change_RQ: Floats
    block_change_RQ: Floats  # the largest change that arises in one block of consecutive positions; 0 if all are less
    block_positions_R: Ints  # of the largest block of this row

    @property
    def base_nats_R(self) -> Floats:
        row_of_target_N = np.repeat(np.arange(len(self.num_targets_R)), self.num_targets_R)
        return np.bincount(row_of_target_N, self.base.nats_N, len(self.num_targets_R)).astype(np.float64)


def row_changes(
    adapter: Adapter, rows: Sequence[Sequence[Any]], projection: Projection, batch_tokens: int
) -> RowChanges:
    """Run every row forward and backward once.

    Args:
        rows: each row as its examples (windows), in order; a row without examples has no targets.
        projection: of layers of `adapter.module`.
        batch_tokens: padded tokens in one pass.

    Raises:
        InputError: a projected layer does not see the positions of the batch (an expert, say).
    """
    row_of_example = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    examples = [example for row in rows for example in row]
    change_RQ = np.zeros((len(rows), projection.num_queries))
    block_change_RQ = np.zeros_like(change_RQ)
    longest_R = np.array([max(map(len, row), default=1) for row in rows], dtype=np.int64)
    nats_of_example: list[Floats] = [np.zeros(0)] * len(examples)
    engine = _Engine(adapter, projection)
    plan = plan_batches([len(example) for example in examples], batch_tokens)
    runs = (engine.run([examples[index] for index in indices]) for indices in plan)
    for indices, (loss, device_BPQ) in _one_behind(zip(plan, runs, strict=True)):
        change_BPQ = device_BPQ.double().cpu().numpy()
        rows_B = row_of_example[indices]
        np.add.at(change_RQ, rows_B, change_BPQ.sum(axis=1))
        np.maximum.at(block_change_RQ, rows_B, change_BPQ.max(axis=1))
        ends = np.cumsum(loss.num_targets.cpu().numpy())
        for index, piece in zip(indices, np.split(target_nats(loss).detach().cpu().numpy(), ends[:-1]), strict=True):
            nats_of_example[index] = piece
    num_targets_E = np.array([len(nats) for nats in nats_of_example], dtype=np.int64)
    return RowChanges(
        num_targets_R=np.bincount(row_of_example, num_targets_E, len(rows)).astype(np.int64),
        base=BaseNats(np.concatenate([np.zeros(0), *nats_of_example]), num_targets_E),
        change_RQ=change_RQ,
        block_change_RQ=block_change_RQ,
        block_positions_R=np.minimum(longest_R, BLOCK_POSITIONS),
    )


def _one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Each item once the next has begun: a GPU works on that one while this one is fetched."""
    held: list[Item] = []
    for item in items:
        held.append(item)
        if len(held) > 1:
            yield held.pop(0)
    yield from held


class _Engine:
    """The model with a recorder at each projected layer."""

    def __init__(self, adapter: Adapter, projection: Projection) -> None:
        self.adapter = adapter
        self.layers = {name: adapter.module.get_submodule(name) for name in projection.layers}
        self.num_queries = projection.num_queries
        self.parts = {name: _placed(projection.layers[name], layer) for name, layer in self.layers.items()}

    def run(self, examples: Sequence[Any]) -> tuple[ExampleLoss, Tensor]:
        """Loss and changes (B, P, Q) of one batch."""
        batch = self.adapter.collate(examples)
        longest = max(len(example) for example in examples)
        blocks = _Blocks(len(examples), longest)
        recorders: dict[str, Recorder] = {name: blocks.recorder(name, part) for name, part in self.parts.items()}
        with recording(self.layers, recorders), torch.enable_grad():
            loss = self.adapter.loss(batch)
            nats = loss.sum_nats.sum()
            if nats.requires_grad:
                nats.backward()
        shape = (len(examples), blocks.num_blocks, self.num_queries)
        if blocks.change_SQ is None:  # nothing to predict in this batch
            return loss, torch.zeros(shape)
        return loss, blocks.change_SQ.view(shape)


class _Blocks:
    """Sums over the layers of ⟨C_q, Σ_t (Uᵀg_t)(Vᵀa_t)ᵀ⟩, for each block of each example of one batch.

    Name suffix: S blocks of all examples.
    """

    def __init__(self, num_examples: int, num_positions: int) -> None:
        self.num_examples = num_examples
        self.longest = num_positions
        self.num_blocks = math.ceil(num_positions / BLOCK_POSITIONS)
        self.num_positions = min(num_positions, BLOCK_POSITIONS)
        self.change_SQ: Tensor | None = None

    def recorder(self, name: str, part: LayerProjection) -> Recorder:
        def record(layer: nn.Module, given: Tensor, gradient: Tensor, _: Tensor | None) -> None:
            inputs_BTI, gradient_BTO = input_rows(layer, given), output_rows(layer, gradient)
            if inputs_BTI.shape[:2] != (self.num_examples, self.longest):
                raise InputError(
                    f"layer {name} sees {tuple(inputs_BTI.shape[:2])} positions, the batch has "
                    f"{(self.num_examples, self.longest)}: the one-pass engine cannot tell whose they are"
                )
            outputs_SCK = self._in_blocks(gradient_BTO @ part.outputs_OK)
            inputs_SCJ = self._in_blocks(inputs_BTI @ part.inputs_IJ)
            products_SKJ = wide(outputs_SCK.mT @ inputs_SCJ)
            change_SQ = products_SKJ.flatten(1) @ part.cores_QKJ.flatten(1).T
            self.change_SQ = change_SQ if self.change_SQ is None else self.change_SQ + change_SQ

        return record

    def _in_blocks(self, rows_BTK: Tensor) -> Tensor:
        """(B, T, K) as (S, C, K), padded with zeros."""
        missing = self.num_blocks * self.num_positions - rows_BTK.shape[1]
        return F.pad(rows_BTK, (0, 0, 0, missing)).view(-1, self.num_positions, rows_BTK.shape[2])


def _placed(part: LayerProjection, layer: nn.Module) -> LayerProjection:
    """Directions in the weights' dtype, for activations meet them; cores as wide as they are."""
    weight = layer.get_parameter("weight")
    return LayerProjection(
        part.outputs_OK.to(weight), part.inputs_IJ.to(weight), part.cores_QKJ.to(wide(weight).dtype).to(weight.device)
    )
