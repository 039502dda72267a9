"""Faults that are really done to a run, and the ledger of what came of it.

`make faults` tries all of them and prints the ledger last; the quick ones run in `make test` too. After every fault the
result is compared, row by row, with that of a run that nobody disturbed.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from tasks import storage

ALL = os.environ.get("FINF_FAULTS") == "1"
COUNTS = ("tried", "survived", "rows_lost", "rows_doubled")
TOLERANCE = 1e-4  # of a mirror ratio: another number of threads, or smaller batches, round differently
slow_fault = pytest.mark.skipif(not ALL, reason="a minute or more: make faults")


@dataclass
class Ledger:
    tried: int = 0
    survived: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    largest_difference: float = 0.0
    by_name: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Ledger") -> None:
        """What another process tried."""
        for key in COUNTS:
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.largest_difference = max(self.largest_difference, other.largest_difference)
        self.by_name += other.by_name

    def line(self) -> str:
        return json.dumps({key: getattr(self, key) for key in COUNTS})

    def table(self) -> list[str]:
        named = [f"{number:>5}  {name}" for name, number in sorted(self.by_name.items())]
        return [*named, f"largest difference of a score: {self.largest_difference:.1e}"]


ledger = Ledger()


@contextmanager
def fault(name: str) -> Iterator[None]:
    """A fault that is tried within the block, and survived if the block ends well."""
    ledger.tried += 1
    yield
    ledger.survived += 1
    ledger.by_name[name] += 1


@dataclass(frozen=True)
class Result:
    """Of a run that lists every row for every query: (query, document) -> its numbers, and how often it is listed."""

    times: Counter[tuple[str, str]]
    numbers: dict[tuple[str, str], tuple[float, float, float]]
    counted: dict[str, int]  # rows in the histogram of each query

    @classmethod
    def nothing(cls) -> "Result":
        return cls(Counter(), {}, {})


def read_result(run_uri: str) -> Result:
    top = storage.read_table(storage.join(run_uri, "top.parquet"))
    queries = storage.read_table(storage.join(run_uri, "queries.parquet"))
    keys = _pairs(top)
    columns = [top[name].to_pylist() for name in ("score", "row_ratio", "mirror_ratio")]
    counted = {line["query_id"]: sum(line["ratio_counts"]) for line in queries.to_pylist()}
    return Result(Counter(keys), dict(zip(keys, zip(*columns, strict=True), strict=True)), counted)


def compare(found: Result, wanted: Result, ledger: Ledger = ledger) -> None:
    """Every row once, with the same numbers. What is lost or doubled goes into the ledger before it is asserted."""
    lost = len(wanted.times.keys() - found.times.keys()) + _sum_positive(wanted.counted, found.counted)
    doubled = sum(number - 1 for number in found.times.values()) + _sum_positive(found.counted, wanted.counted)
    ledger.rows_lost += lost
    ledger.rows_doubled += doubled
    assert (lost, doubled) == (0, 0)
    assert found.times.keys() == wanted.times.keys()
    differences = [
        abs(mine - theirs)
        for key, numbers in wanted.numbers.items()
        for mine, theirs in zip(found.numbers[key][1:], numbers[1:], strict=True)
    ]
    ledger.largest_difference = max([ledger.largest_difference, *differences])
    assert max(differences) <= TOLERANCE


def _pairs(top: pa.Table) -> list[tuple[str, str]]:
    return list(zip(top["query_id"].to_pylist(), top["document_id"].to_pylist(), strict=True))


def _sum_positive(more: dict[str, int], less: dict[str, int]) -> int:
    return sum(max(0, number - less[key]) for key, number in more.items())
