"""The updates of all queries as one small set of matrices: what a single pass over the corpus needs to know of them.

Each layer's updates Δ_q are written as U C_q Vᵀ with one U and one V for all queries (a Tucker decomposition, cut to
the directions that hold most of the updates' squares) and a small core C_q for each. A row's gradient, projected to U
and V once, then meets every query for the price of a product of small matrices.
Name suffixes: Q queries, O outputs and I inputs of a layer (with the bias' 1), K and J what is kept of them.

Sources: De Lathauwer et al. 2000 (higher-order SVD); gradients projected on both sides of a layer: LoGra, Choe et al.
2024, arXiv:2405.13954, whose directions are those of the corpus; ours are those of the queries.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from finf_core.errors import InputError
from finf_core.layers import has_bias, is_linear, num_inputs, num_outputs, parameter_name, weight_matrix
from finf_core.moving import Deltas, block_list
from finf_core.wide import wide

DEFAULT_BLOCKS_SHARE = 1 / 3  # of the blocks, the last ones: docs/PERFORMANCE.md says what it costs in recall

Updates = Callable[[], Iterator[Deltas]]  # each time anew, one query's deltas after the other


class LayerProjection(NamedTuple):
    outputs_OK: Tensor
    inputs_IJ: Tensor
    cores_QKJ: Tensor


@dataclass(frozen=True)
class Projection:
    layers: Mapping[str, LayerProjection]

    @property
    def num_queries(self) -> int:
        return next(iter(self.layers.values())).cores_QKJ.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{part}": tensor for name, found in self.layers.items() for part, tensor in found._asdict().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Projection":
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            name, part = key.rsplit("/", 1)
            parts.setdefault(name, {})[part] = tensor
        return cls({name: LayerProjection(**found) for name, found in parts.items()})


def projectable_layers(
    module: nn.Module, moving: Collection[str], head: nn.Module | None = None
) -> dict[str, nn.Module]:
    """The layers that an update of these parameters moves, by name.

    Raises:
        InputError: they move something that is no linear layer of the blocks (an embedding, a norm, the head), whose
            part of the gradient is no product of inputs and output gradients of a row's positions.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if is_linear(layer) and layer is not head and parameter_name(name, "weight") in moving
    }
    known = {parameter_name(name, key) for name in layers for key in ("weight", "bias")}
    if other := sorted(set(moving) - known):
        raise InputError(
            f"the one-pass engine takes updates of linear layers; this one moves {other[0]} too: use every_query"
        )
    return layers


def last_blocks(module: nn.Module, layers: Mapping[str, nn.Module], num_blocks: int | None) -> dict[str, nn.Module]:
    """Those of the layers that belong to the last blocks of the model.

    Args:
        num_blocks: None: the default share. Where none of these blocks' layers moves, all layers are kept.
    """
    name, blocks = block_list(module)
    if num_blocks is None:
        num_blocks = math.ceil(len(blocks) * DEFAULT_BLOCKS_SHARE)
    earlier = tuple(f"{name}.{index}." for index in range(len(blocks) - num_blocks))
    return {key: layer for key, layer in layers.items() if not key.startswith(earlier)} or dict(layers)


def fit_projection(layers: Mapping[str, nn.Module], updates: Updates, rank: int) -> Projection:
    """Find the directions that hold most of the updates, and each update's core in them.

    Args:
        layers: what is projected; other deltas are left out.
        updates: read twice. An update that is to count as much as the others comes scaled so.
        rank: directions kept on each side of a layer; a side with no more than that is kept whole.
    """
    bases = {name: _basis(*squares, rank) for name, squares in _sum_squares(layers, updates()).items()}
    cores: dict[str, list[Tensor]] = {name: [] for name in layers}
    for deltas in updates():
        for name, layer in layers.items():
            outputs_OK, inputs_IJ = bases[name]
            cores[name].append(outputs_OK.T @ _matrix(name, layer, deltas) @ inputs_IJ)
    return Projection({name: LayerProjection(*bases[name], torch.stack(cores[name])) for name in layers})


def blank_projection(layers: Mapping[str, nn.Module], num_queries: int, rank: int) -> Projection:
    """Zeros, shaped as a projection of so many queries would be: what a pass costs can be counted with it."""
    parts = {}
    for name, layer in layers.items():
        num_kept = min(rank, num_outputs(layer)), min(rank, num_inputs(layer))
        parts[name] = LayerProjection(
            torch.zeros(num_outputs(layer), num_kept[0]),
            torch.zeros(num_inputs(layer), num_kept[1]),
            torch.zeros(num_queries, *num_kept),
        )
    return Projection(parts)


def _sum_squares(layers: Mapping[str, nn.Module], updates: Iterable[Deltas]) -> dict[str, tuple[Tensor, Tensor]]:
    """Σ_q Δ Δᵀ (O, O) and Σ_q Δᵀ Δ (I, I) of each layer."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for deltas in updates:
        for name, layer in layers.items():
            delta_OI = _matrix(name, layer, deltas)
            outputs_OO, inputs_II = delta_OI @ delta_OI.T, delta_OI.T @ delta_OI
            if name in sums:
                outputs_OO, inputs_II = outputs_OO + sums[name][0], inputs_II + sums[name][1]
            sums[name] = outputs_OO, inputs_II
    return sums


def _basis(outputs_OO: Tensor, inputs_II: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the largest eigenvalues of either side; `eigh` gives them in ascending order."""
    vectors_OO, vectors_II = torch.linalg.eigh(outputs_OO)[1], torch.linalg.eigh(inputs_II)[1]
    return vectors_OO[:, -rank:].contiguous(), vectors_II[:, -rank:].contiguous()


def _matrix(name: str, layer: nn.Module, deltas: Deltas) -> Tensor:
    """A layer's delta as (O, I), the bias' as its last column."""
    device = layer.get_parameter("weight").device
    delta_OI = wide(weight_matrix(layer, deltas[parameter_name(name, "weight")])).to(device)
    if not has_bias(layer):
        return delta_OI
    bias = deltas.get(parameter_name(name, "bias"))
    bias_O = delta_OI.new_zeros(len(delta_OI)) if bias is None else wide(bias).to(device)
    return torch.cat([delta_OI, bias_O[:, None]], dim=1)
