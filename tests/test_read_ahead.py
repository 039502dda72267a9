"""Reading ahead: order, bounds, errors and an early end."""

import threading
import time
from collections.abc import Generator

import pytest

from finf_core.errors import InputError
from tasks.read_ahead import read_ahead

WAIT_SECONDS = 10


class Source:
    """Numbers, made one by one, that remembers what was made, where, and whether it was closed."""

    def __init__(self, count: int = 8, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at
        self.made: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.is_closed = False

    def numbers(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                self.threads.add(threading.current_thread())
                if number == self.fails_at:
                    raise InputError(f"row {number} is bad")
                self.made.append(number)
                yield number
        finally:
            self.is_closed = True

    def wait_until_made(self, count: int) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while len(self.made) < count:
            assert time.monotonic() < deadline, self.made
            time.sleep(0.001)

    def assert_ended(self) -> None:
        assert self.is_closed
        assert threading.current_thread() not in self.threads
        assert not any(thread.is_alive() for thread in self.threads)


def test_items_come_in_order_and_two_wait_while_one_is_worked_on() -> None:
    source = Source()
    with read_ahead(source.numbers(), 2) as items:
        for item in items:
            source.wait_until_made(min(item + 3, 8))
            time.sleep(0.02)  # a reader without a bound would run on
            assert source.made == list(range(min(item + 3, 8)))
    assert source.made == list(range(8))
    source.assert_ended()


def test_an_error_of_the_reader_is_raised_as_itself_after_the_items_before_it() -> None:
    source, taken = Source(fails_at=3), []
    with pytest.raises(InputError, match="row 3 is bad"), read_ahead(source.numbers(), 2) as items:
        taken.extend(items)
    assert taken == [0, 1, 2]
    source.assert_ended()


@pytest.mark.parametrize("depth", [1, 4])
def test_the_reader_ends_when_the_caller_stops_early(depth: int) -> None:
    source = Source(count=100)
    with read_ahead(source.numbers(), depth) as items:
        assert next(items) == 0
    assert len(source.made) <= depth + 1
    source.assert_ended()


def test_the_reader_ends_when_the_caller_fails_and_the_caller_s_error_is_the_one_that_is_raised() -> None:
    source = Source(fails_at=2)
    with pytest.raises(ZeroDivisionError), read_ahead(source.numbers(), 2) as items:
        next(items) / 0
    source.assert_ended()


def test_nothing_to_read_is_no_items() -> None:
    source = Source(count=0)
    with read_ahead(source.numbers(), 2) as items:
        assert list(items) == []
    source.assert_ended()
