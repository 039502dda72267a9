"""The comparison that every fault is judged by, with each thing wrong that it is there to see."""

from collections import Counter

import pytest
from faults import TOLERANCE, Ledger, Result, compare

KEYS = [("q", f"doc-{row}") for row in range(4)]
WANTED = Result(Counter(KEYS), dict.fromkeys(KEYS, (1.0, 0.2, 0.5)), {"q": 4})


def result(times: dict[tuple[str, str], int], counted: int = 4, ratio: float = 0.5) -> Result:
    return Result(Counter(times), dict.fromkeys(times, (1.0, 0.2, ratio)), {"q": counted})


def test_the_same_rows_with_the_same_numbers_are_the_same() -> None:
    ledger = Ledger()
    compare(WANTED, WANTED, ledger)
    assert (ledger.rows_lost, ledger.rows_doubled, ledger.largest_difference) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("found", "lost", "doubled"),
    [
        (result(dict.fromkeys(KEYS[:3], 1)), 1, 0),  # not listed
        (result(dict.fromkeys(KEYS, 1), counted=3), 1, 0),  # not counted
        (result({**dict.fromkeys(KEYS, 1), KEYS[0]: 2}), 0, 1),  # listed twice
        (result(dict.fromkeys(KEYS, 1), counted=6), 0, 2),  # counted twice
    ],
)
def test_a_row_that_is_lost_or_doubled_is_seen_and_written_down(found: Result, lost: int, doubled: int) -> None:
    ledger = Ledger()
    with pytest.raises(AssertionError):
        compare(found, WANTED, ledger)
    assert (ledger.rows_lost, ledger.rows_doubled) == (lost, doubled)


def test_another_score_or_another_row_is_seen() -> None:
    with pytest.raises(AssertionError):
        compare(result(dict.fromkeys(KEYS, 1), ratio=0.5 + 2 * TOLERANCE), WANTED, Ledger())
    with pytest.raises(AssertionError):
        compare(result({**dict.fromkeys(KEYS, 1), ("q", "doc-9"): 1}), WANTED, Ledger())
