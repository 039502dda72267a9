"""Threads over a stream: in order, and never far ahead of who reads."""

import threading
import time
from collections.abc import Iterator

import pytest

from finf_core.errors import StorageError
from tasks.bounded_map import bounded_map


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def nap(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(bounded_map(nap, range(50), 8, 16)) == [number * number for number in range(50)]
    assert list(bounded_map(nap, [], 8, 16)) == []


def test_several_items_are_under_way_at_once() -> None:
    together = threading.Barrier(4, timeout=20)  # broken, were they done one after the other
    assert sorted(bounded_map(lambda _: together.wait(), range(8), 4, 4)) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_no_more_items_are_pulled_than_are_asked_for_ahead() -> None:
    pulled = 0

    def items() -> Iterator[int]:
        nonlocal pulled
        while True:  # there is no end to wait for
            pulled += 1
            yield pulled

    results = bounded_map(lambda number: number, items(), 4, 10)
    for num_taken, _ in enumerate(results, start=1):
        assert pulled <= num_taken + 10
        if num_taken == 200:
            break
    results.close()
    assert pulled <= 210


def test_an_error_comes_in_its_turn_and_what_was_not_begun_is_given_up() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        time.sleep(0.3 if number > 3 else 0)
        if number == 3:
            raise StorageError(f"s3://bucket/{number}: no answer")
        return number

    results = bounded_map(read, range(1000), 2, 100)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StorageError, match="s3://bucket/3"):
        next(results)
    assert len(begun) < 20
