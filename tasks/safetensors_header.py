"""The header of a safetensors file: names, dtypes, shapes and places of its tensors, checked before anything is loaded.

A file is 8 bytes with the header's length (little endian), the header (JSON), and the tensors' bytes one after the
other without gaps (github.com/huggingface/safetensors, "Format").
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from finf_core.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the library's own limit
MOST_DIMENSIONS = 16
METADATA = "__metadata__"
FLOATS = ("F64", "F32", "F16", "BF16")
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "C64": 64},
    **{"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}


class StoredTensor(NamedTuple):
    file: str
    dtype: str  # as safetensors spells it: "F32"
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, StoredTensor]:
    """What the file holds, by name.

    Raises:
        CheckpointError: the header is broken, or tensors overlap or do not fill the file; names file and tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(f"{file}: a header of {length:,} bytes in a file of {size:,}: damaged or cut off")
        header = _parse(stream.read(length), file)
    places = {name: _offsets(name, described, file) for name, described in header.items()}
    for name, (_, stop) in places.items():
        if stop > size - 8 - length:
            raise CheckpointError(f"{file}: tensor {name!r} ends beyond the file: damaged or cut off")
    tensors, place = {}, 0
    for name, (start, stop) in sorted(places.items(), key=lambda item: item[1]):
        tensor = _tensor(name, header[name], file)
        if start != place or stop - start != _num_bytes(tensor):
            raise CheckpointError(
                f"{file}: tensor {name!r} overlaps others, leaves a gap, or is not of its shape's size"
            )
        tensors[name], place = tensor, stop
    if place != size - 8 - length:
        raise CheckpointError(f"{file}: holds {size - 8 - length:,} bytes of tensors, and its header names {place:,}")
    return tensors


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header is no JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header names no tensors")
    header.pop(METADATA, None)
    return header


def _offsets(name: str, described: Any, file: Path) -> tuple[int, int]:
    offsets = described.get("data_offsets") if isinstance(described, dict) else None
    found = _counts(offsets)
    if found is None or len(found) != 2:
        raise CheckpointError(f"{file}: tensor {name!r} has no place in the file")
    return found[0], found[1]


def _tensor(name: str, described: dict[str, Any], file: Path) -> StoredTensor:
    dtype, shape = described.get("dtype"), _counts(described.get("shape"))
    if not isinstance(dtype, str) or dtype not in BITS or shape is None or len(shape) > MOST_DIMENSIONS:
        raise CheckpointError(f"{file}: tensor {name!r} has no known dtype, or no shape")
    return StoredTensor(str(file), dtype, tuple(shape))


def _num_bytes(tensor: StoredTensor) -> float:
    """Not whole where the bits of a small dtype do not fill their last byte: no tensor is as large."""
    bits = math.prod(tensor.shape) * BITS[tensor.dtype]
    return bits // 8 if bits % 8 == 0 else math.inf


def _counts(values: Any) -> list[int] | None:
    """The numbers of a list of sizes; None where it is none."""
    return values if isinstance(values, list) and all(type(each) is int and each >= 0 for each in values) else None
