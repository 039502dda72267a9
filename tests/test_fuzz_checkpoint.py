"""Damaged safetensors headers: what is accepted the library accepts too, all else is one line with the file's name."""

import json
import struct
from pathlib import Path
from typing import Any

import fuzz_counts
import pytest
import torch
from damaged_bytes import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from finf_core.errors import CheckpointError
from tasks.safetensors_header import read_header

TENSORS = {
    "a": torch.ones(2, 3),
    "b": torch.zeros(4, dtype=torch.bfloat16),
    "c": torch.zeros(0, 5),
    "d": torch.ones(()),
}
FILES = [save(TENSORS), save({"x": torch.ones(3, dtype=torch.int64)}, {"format": "pt"}), save({})]


def check(file: Path, data: bytes) -> None:
    fuzz_counts.tried["safetensors"] += 1
    file.write_bytes(data)
    try:
        found = read_header(file)
    except CheckpointError as error:
        line: str | None = str(error)
    else:
        line = None
        with safe_open(file, framework="pt") as opened:
            assert set(opened.keys()) == set(found)
            assert all(tuple(opened.get_slice(name).get_shape()) == found[name].shape for name in found)
    assert line is None or ("\n" not in line and file.name in line)


@given(damaged(FILES))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_damaged_files_are_tensors_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    check(tmp_path_factory.getbasetemp() / "damaged.safetensors", data)


NUMBERS = st.integers(-2, 40) | st.sampled_from([2**31, 2**32, 2**60, 2**63, 2**64])
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I64", "F4", "F8_E4M3", "F33", 3]),
        "shape": st.lists(NUMBERS, max_size=4) | st.none(),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3) | st.none(),
    }
)


@given(st.dictionaries(st.text(max_size=3), TENSOR | st.integers() | st.none(), max_size=3), st.integers(0, 80))
@settings(max_examples=fuzz_counts.NUM_EXAMPLES, suppress_health_check=list(HealthCheck))
def test_any_header_is_tensors_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], num_bytes: int
) -> None:
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(num_bytes)
    check(tmp_path_factory.getbasetemp() / "any.safetensors", data)
