"""Mirrored updates as safetensors objects in the store."""

import json
from typing import Any

from safetensors.torch import save

from finf_core.updates import MirroredUpdate
from tasks import storage
from tasks.tensors import read_tensors

IN_MEMORY_BYTES = 2 << 30
NUMBERS = ("direction", "difference", "base_nats", "num_targets", "moved_nats", "step_size")


def publish_update(folder: str, name: str, update: MirroredUpdate) -> None:
    """`<name>.safetensors`, then `<name>.json` with the numbers, which means complete."""
    deltas = {key: delta.contiguous().cpu() for key, delta in update.deltas.items()}
    storage.publish_bytes(storage.join(folder, f"{name}.safetensors"), save(deltas))
    numbers = {key: getattr(update, key) for key in NUMBERS}
    storage.publish_bytes(storage.join(folder, f"{name}.json"), json.dumps(numbers).encode())


def read_update(folder: str, name: str) -> MirroredUpdate:
    return MirroredUpdate(read_tensors(storage.join(folder, f"{name}.safetensors")), **read_numbers(folder, name))


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
