"""Out of memory: told from other errors, whoever raised it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import torch

from finf_core.errors import CapacityError

CPU_ALLOCATOR = "can't allocate memory"  # torch has no class of its own for what a CPU lacks


@contextmanager
def capacity_errors(doing: str) -> Iterator[None]:
    """Raises CapacityError in place of whatever says in the block that memory is short."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise CapacityError(f"out of memory while {doing}: {lines[0][:200]}") from None  # a traceback holds tensors


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


def release_memory() -> None:
    """Give back what no tensor and no table holds any more."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
