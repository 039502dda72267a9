"""Which parameters the mirrored update may move, and the model while they are moved."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from finf_core.errors import InputError

Deltas = Mapping[str, Tensor]  # parameter name -> what is added to it, shaped like it, float32 or wider


def moving_parameters(module: nn.Module, moves: str) -> dict[str, nn.Parameter]:
    """The parameters named by `moves`: "all", "last:K" (the last K blocks), or a pattern such as "*.mlp.*".

    Tied parameters appear once, under their first name.

    Raises:
        InputError: nothing is named, or the model has fewer than K blocks.
    """
    parameters = dict(module.named_parameters())
    if moves == "all":
        return parameters
    if moves.startswith("last:"):
        prefixes = _last_blocks(module, moves)
        chosen = {name: p for name, p in parameters.items() if name.startswith(prefixes)}
    else:
        chosen = {name: p for name, p in parameters.items() if fnmatchcase(name, moves)}
    if not chosen:
        raise InputError(f"update.moves = {moves!r} names no parameter; the first are {list(parameters)[:3]}")
    return chosen


@contextmanager
def moved(module: nn.Module, deltas: Deltas, scale: float = 1.0) -> Iterator[None]:
    """The model at θ + scale·Δ; the very same θ (bit for bit) afterwards.

    A parameter keeps its own dtype and device: the sum is taken in the wider of the two dtypes, then rounded to it.
    bfloat16 is rounded at random (seeded by name and scale), so that an update much finer than the weights
    moves few of them by much instead of none: in the mean over weights it is not lost.
    """
    parameters = dict(module.named_parameters())
    base = {name: parameters[name].data for name in deltas}
    try:
        for name, delta in deltas.items():
            sum_ = base[name] + scale * delta.to(base[name].device)
            parameters[name].data = _round(sum_, base[name].dtype, seed=zlib.crc32(f"{name} {scale}".encode()))
        yield
    finally:
        for name, data in base.items():
            parameters[name].data = data


def _round(values: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """To `dtype`; to bfloat16 up or down at random, the nearer the likelier, so that the mean is the value itself.

    bfloat16 is the upper half of a float32: adding a random lower half and dropping it rounds so.
    """
    if dtype != torch.bfloat16 or values.dtype == torch.bfloat16:
        return values.to(dtype)
    bits = values.float().view(torch.int32)
    generator = torch.Generator(bits.device).manual_seed(seed)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    return ((bits + noise) & ~0xFFFF).view(torch.float32).to(dtype)


def block_list(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """A model's blocks, first to last: its longest `nn.ModuleList` and that one's name; empty where there is none."""
    lists = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=lambda item: len(item[1]), default=("", nn.ModuleList()))


def _last_blocks(module: nn.Module, moves: str) -> tuple[str, ...]:
    name, blocks = block_list(module)
    count = moves.removeprefix("last:")
    if not count.isdecimal() or not 1 <= int(count) <= len(blocks):
        raise InputError(f"update.moves = {moves!r}: want last:K with K from 1 to {len(blocks)} blocks")
    return tuple(f"{name}.{index}." for index in range(len(blocks) - int(count), len(blocks)))
