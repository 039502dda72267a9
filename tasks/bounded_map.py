"""Threads over a stream of items that may be long: what is in flight is bounded, the order is that of the items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def bounded_map(
    function: Callable[[T], R], items: Iterable[T], num_threads: int, num_ahead: int
) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of the items; at most `num_ahead` results wait or are under way.

    Items are pulled by the caller's thread. The first error of a call is raised in its turn; calls not begun are then
    given up.
    """
    source = iter(items)
    with ThreadPoolExecutor(num_threads) as threads:
        ahead: deque[Future[R]] = deque(threads.submit(function, item) for item in islice(source, num_ahead))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(threads.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            threads.shutdown(cancel_futures=True)
