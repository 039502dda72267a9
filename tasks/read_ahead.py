"""Read ahead: the next items of an iterator are made on a thread of their own while the caller works on this one."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def read_ahead(items: Generator[T, None, None], depth: int) -> Iterator[Iterator[T]]:
    """The same items in the same order, of which up to `depth` wait while the caller holds one.

    What the generator raises is raised to the caller, in its place. When the block is left, early or not, the
    generator is closed and its thread has ended.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        waiting = deque(reader.submit(next, items, _END) for _ in range(depth))

        def taken() -> Iterator[Any]:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(reader.submit(next, items, _END))
                yield item

        try:
            yield taken()
        finally:
            _forget(waiting)
            reader.submit(items.close)


def _forget(waiting: deque[Future[Any]]) -> None:
    for future in waiting:
        future.cancel()
