"""The device that `benchmarks.gpu` measures: waiting for it, its memory, and what it reaches in a matrix product."""

import gc
import resource
import time
from collections.abc import Sequence

import torch

PRODUCTS_AT_ONCE = 10  # matrix products between two looks at the clock


def matmul_ceiling(sizes: Sequence[int], device: str, seconds: float = 0.5) -> float:
    """Operations a second of the fastest square matrix product; each size is tried for so many seconds."""
    return max(_matmul_speed(size, device, seconds) for size in sizes)


def _matmul_speed(size: int, device: str, seconds: float) -> float:
    left, right = torch.randn(2, size, size, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        wait(device)
        begun = time.perf_counter()
        for _ in range(PRODUCTS_AT_ONCE):
            left @ right
        wait(device)
        best = min(best, (time.perf_counter() - begun) / PRODUCTS_AT_ONCE)
    return float(2 * size**3 / best)


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def free_memory(device: str) -> None:
    """What an earlier shape left behind, so that neither the peak nor what is free counts it."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes(device: str) -> int:
    """Of the device; on a CPU, of the whole process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
