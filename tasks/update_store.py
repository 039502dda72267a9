"""Mirrored updates and Kronecker factors as safetensors objects in the store."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from finf_core.curvature import KroneckerFactors
from finf_core.errors import InputError
from finf_core.updates import MirroredUpdate
from tasks import storage

IN_MEMORY_BYTES = 2 << 30
NUMBERS = ("direction", "base_nats", "num_targets", "moved_nats", "step_size")


def publish_update(folder: str, name: str, update: MirroredUpdate) -> None:
    """`<name>.safetensors`, then `<name>.json` with the numbers, which means complete."""
    deltas = {key: delta.contiguous().cpu() for key, delta in update.deltas.items()}
    storage.publish_bytes(storage.join(folder, f"{name}.safetensors"), save(deltas))
    numbers = {key: getattr(update, key) for key in NUMBERS}
    storage.publish_bytes(storage.join(folder, f"{name}.json"), json.dumps(numbers).encode())


def read_update(folder: str, name: str) -> MirroredUpdate:
    return MirroredUpdate(_read(storage.join(folder, f"{name}.safetensors")), **read_numbers(folder, name))


def read_numbers(folder: str, name: str) -> dict[str, Any]:
    """The numbers of an update without its tensors."""
    numbers: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, f"{name}.json")))
    return numbers


def publish_factors(uri: str, factors: Mapping[str, KroneckerFactors]) -> None:
    tensors = {
        f"{layer}/{part}": tensor.float().contiguous().cpu()
        for layer, layer_factors in factors.items()
        for part, tensor in layer_factors._asdict().items()
    }
    storage.publish_bytes(uri, save(tensors))


def read_factors(uri: str) -> dict[str, KroneckerFactors]:
    tensors = _read(uri)
    layers = dict.fromkeys(key.rsplit("/", 1)[0] for key in tensors)
    return {
        layer: KroneckerFactors(*(tensors[f"{layer}/{part}"] for part in KroneckerFactors._fields)) for layer in layers
    }


class UpdateReader:
    """Updates of one folder. The first ones that fit stay in memory, the others are read each time.

    Every unit reads all of them in the same order, where dropping the oldest first would never hit.
    """

    def __init__(self, folder: str, limit_bytes: int = IN_MEMORY_BYTES) -> None:
        self.folder = folder
        self.kept: dict[str, MirroredUpdate] = {}
        self.bytes_left = limit_bytes

    def read(self, name: str) -> MirroredUpdate:
        if name in self.kept:
            return self.kept[name]
        update = read_update(self.folder, name)
        num_bytes = sum(delta.nbytes for delta in update.deltas.values())
        if num_bytes <= self.bytes_left:
            self.bytes_left -= num_bytes
            self.kept[name] = update
        return update


def _read(uri: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(storage.read_bytes(uri))
    except (ValueError, KeyError) as error:
        raise InputError(f"{uri}: not a readable safetensors object; delete it and run again") from error
    return tensors
