"""A file of which some ranges are in memory: what was looked at before it is decoded is not fetched twice."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

PART_BYTES = 32 * 2**20  # of one request
READERS = 8


class Range(NamedTuple):
    start: int
    num_bytes: int


class NotReadError(Exception):
    """Somebody read a file that only its size is known of."""


class FetchedFile(io.RawIOBase):
    """For pyarrow, which reads a column chunk in one go; what is not in memory is read from the source.

    Args:
        source: a file of pyarrow's, for its `read_at` and `size`.
    """

    def __init__(self, source: Any, ranges: Sequence[Range]) -> None:
        self._source, self._place = source, 0
        self._fetched = dict(zip(ranges, _fetch(source, ranges), strict=True))

    def chunk(self, wanted: Range) -> memoryview:
        return self._fetched[wanted]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size()}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, num_bytes: int = -1) -> Any:
        start = self._place
        num_bytes = self._source.size() - start if num_bytes is None or num_bytes < 0 else num_bytes
        data = self._find(start, num_bytes)
        self._place = start + len(data)
        return data

    def _find(self, start: int, num_bytes: int) -> Any:
        for (first, size), data in self._fetched.items():
            if first <= start and start + num_bytes <= first + size:
                return data[start - first : start - first + num_bytes]
        return self._source.read_at(num_bytes, start)


class UnreadFile(FetchedFile):
    """A file that is looked at by its footer alone; whoever reads it gets a NotReadError."""

    def __init__(self, source: Any) -> None:
        super().__init__(source, [])

    def read(self, num_bytes: int = -1) -> Any:
        raise NotReadError


def _fetch(source: Any, ranges: Sequence[Range]) -> list[memoryview]:
    """Each range, in parts that are fetched at the same time, as pyarrow does."""
    parts = [
        (offset, min(PART_BYTES, start + num_bytes - offset))
        for start, num_bytes in ranges
        for offset in range(start, start + num_bytes, PART_BYTES)
    ]
    if len(parts) <= 1:
        pieces = [source.read_at(size, offset) for offset, size in parts]
    else:
        with ThreadPoolExecutor(min(READERS, len(parts))) as readers:
            pieces = list(readers.map(lambda part: source.read_at(part[1], part[0]), parts))
    found = iter(zip(parts, pieces, strict=True))
    return [_joined(found, num_bytes) for _, num_bytes in ranges]


def _joined(found: Any, num_bytes: int) -> memoryview:
    pieces: list[bytes] = []
    left = num_bytes
    while left > 0:
        (_, size), piece = next(found)
        pieces.append(piece)
        left -= size
    return memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
