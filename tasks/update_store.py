"""Mirrored updates as safetensors objects in the store."""

import json
from typing import Any

from safetensors.torch import save
from torch import Tensor

from finf_core.low_rank import is_cut, low_rank_factors
from finf_core.updates import MirroredUpdate
from tasks import storage
from tasks.tensors import read_tensors

LEFT, RIGHT = "/left", "/right"  # factors of a matrix; no parameter name has a slash
IN_MEMORY_BYTES = 2 << 30
NUMBERS = ("direction", "difference", "base_nats", "num_targets", "moved_nats", "step_size")


def publish_update(folder: str, name: str, update: MirroredUpdate, rank: int | None = None) -> None:
    """`<name>.safetensors`, then `<name>.json` with the numbers, which means complete.

    Args:
        rank: of the update's matrices, if they were cut (`finf_core.low_rank`): they are stored as two factors.
    """
    tensors: dict[str, Tensor] = {}
    for key, delta in update.deltas.items():
        if rank is not None and is_cut(delta, rank):
            tensors[key + LEFT], tensors[key + RIGHT] = low_rank_factors(delta, rank)
        else:
            tensors[key] = delta
    stored = {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}
    storage.publish_bytes(storage.join(folder, f"{name}.safetensors"), save(stored))
    numbers = {key: getattr(update, key) for key in NUMBERS}
    storage.publish_bytes(storage.join(folder, f"{name}.json"), json.dumps(numbers).encode())


def read_update(folder: str, name: str) -> MirroredUpdate:
    stored = read_tensors(storage.join(folder, f"{name}.safetensors"))
    deltas = {key: tensor for key, tensor in stored.items() if not key.endswith((LEFT, RIGHT))}
    for key in stored:
        if key.endswith(LEFT):
            whole = key.removesuffix(LEFT)
            deltas[whole] = stored[key] @ stored[whole + RIGHT]
    return MirroredUpdate(deltas, **read_numbers(folder, name))


def read_numbers(folder: str, name: str) -> dict[str, Any]:
    """The numbers of an update without its tensors."""
    numbers: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, f"{name}.json")))
    return numbers


class UpdateReader:
    """Updates of one folder. The first ones that fit stay in memory, the others are read each time.

    Every unit reads all of them in the same order, where dropping the oldest first would never hit.
    """

    def __init__(self, folder: str, limit_bytes: int = IN_MEMORY_BYTES) -> None:
        self.folder = folder
        self.kept: dict[str, MirroredUpdate] = {}
        self.bytes_left = limit_bytes

    def numbers(self, name: str) -> dict[str, Any]:
        """Of an update, without its tensors."""
        return read_numbers(self.folder, name)

    def read(self, name: str) -> MirroredUpdate:
        if name in self.kept:
            return self.kept[name]
        update = read_update(self.folder, name)
        num_bytes = sum(delta.nbytes for delta in update.deltas.values())
        if num_bytes <= self.bytes_left:
            self.bytes_left -= num_bytes
            self.kept[name] = update
        return update
