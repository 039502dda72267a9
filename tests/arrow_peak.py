"""How much memory Arrow takes for some work."""

from collections.abc import Callable

import pyarrow as pa

_POOLS: list[pa.MemoryPool] = []  # for ever: what the work returns must not outlive the pool that it came from


def arrow_peak_bytes(work: Callable[[], object]) -> int:
    """The most that Arrow holds at any time of what it has allocated since the work began."""
    before = pa.default_memory_pool()
    _POOLS.append(pa.proxy_memory_pool(before))
    pa.set_memory_pool(_POOLS[-1])
    try:
        work()
    finally:
        pa.set_memory_pool(before)
    return int(_POOLS[-1].max_memory())
