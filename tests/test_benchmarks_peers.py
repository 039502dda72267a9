"""What the table of `benchmarks.peers` rests on: which settings stand for a tool, and whose score is whose."""

import numpy as np
import pytest

from benchmarks.peer_comparison import compare, merge_repeats
from benchmarks.peer_inputs import Text, best_order, by_length, orders_of_peer, pad, put_back
from benchmarks.peer_settings import CHOSEN, TRIED, settings_of
from finf_core.errors import InputError
from finf_core.losses import IGNORE_INDEX


def run(tool: str, variant: str, cpu_seconds: float, renamed_at_5: float) -> dict[str, object]:
    recall = {"verbatim_at_1": 1.0, "verbatim_at_5": 1.0, "renamed_at_1": 0.5, "renamed_at_5": renamed_at_5}
    times = {f"{part}_{unit}": cpu_seconds for part in ("fit", "score", "total") for unit in ("seconds", "cpu_seconds")}
    found = {"tool": tool, "variant": variant, "peak_bytes": 1, "recall": {"score": recall}, "best_order": "score"}
    return found | times


def test_a_tool_is_represented_by_its_cheapest_settings_that_lose_no_recall() -> None:
    bergson = [
        run("bergson", "best", 60.0, 0.95),
        run("bergson", "cheap", 30.0, 0.94),
        run("bergson", "poor", 5.0, 0.5),
    ]
    found = compare([run("finf", "forward", 10.0, 0.95), *bergson], num_renamed=60)
    assert found["tools"]["bergson"]["variant"] == "cheap"
    assert found["cpu_speedup_over_fastest_peer"] == pytest.approx(3.0)
    assert found["recall_is_no_lower"]
    assert found["fastest_settings_of_all"] == {"tool": "bergson", "variant": "poor"}
    assert found["cpu_speedup_over_fastest_settings"] == pytest.approx(0.5)


def test_a_peer_that_finds_more_is_said_to() -> None:
    runs = [run("finf", "forward", 10.0, 0.90), run("dattri", "fast", 20.0, 0.80), run("bergson", "slow", 90.0, 0.95)]
    found = compare(runs, num_renamed=60)
    assert (found["fastest_peer"], found["recall_is_no_lower"]) == ("dattri", True)
    assert not found["recall_is_no_lower_than_any"]


def test_a_run_that_failed_is_listed_and_counts_for_nothing() -> None:
    failed = {"tool": "dattri", "variant": "logra", "error": "TimeoutExpired"}
    found = compare([run("finf", "forward", 10.0, 0.9), failed, run("bergson", "kfac", 30.0, 0.9)], num_renamed=60)
    assert failed in found["runs"]
    assert set(found["tools"]) == {"finf", "bergson"}


def test_repeats_become_the_median_of_their_times() -> None:
    [merged] = merge_repeats([run("bergson", "kfac", seconds, 0.9) for seconds in (30.0, 90.0, 40.0)])
    assert (merged["total_seconds"], merged["num_repeats"]) == (40.0, 3)


def test_scores_of_sorted_texts_come_back_to_their_own_rows_and_queries() -> None:
    rows = [Text([1] * length, [1] * length) for length in (3, 9, 5)]
    queries = [Text([1] * length, [1] * length) for length in (2, 8)]
    score_RQ = np.array([[10 * row + query for query in range(2)] for row in range(3)], dtype=np.float64)
    row_order, query_order = by_length(rows), by_length(queries)
    assert row_order == [1, 2, 0]
    assert (put_back(score_RQ[np.ix_(row_order, query_order)], row_order, query_order) == score_RQ).all()


def test_padding_is_neither_read_nor_scored() -> None:
    input_ids_BT, labels_BT, is_input_BT = pad([Text([5, 6, 7], [IGNORE_INDEX, 6, 7]), Text([5], [IGNORE_INDEX])])
    assert input_ids_BT.tolist() == [[5, 6, 7], [5, 0, 0]]
    assert labels_BT[1].tolist() == [IGNORE_INDEX] * 3
    assert is_input_BT.tolist() == [[True, True, True], [True, False, False]]


def test_a_long_row_does_not_win_by_its_length_when_scores_are_taken_per_target() -> None:
    score_RQ = np.array([[8.0, 1.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    orders = orders_of_peer(score_RQ, np.array([100, 10]))
    assert orders["score"][:, 0].argmax() == 0
    assert orders["score_per_target"][:, 0].argmax() == 1


def test_the_best_order_is_the_one_that_finds_most_renamed_rows() -> None:
    def recall(renamed_at_5: float) -> dict[str, float]:
        return {"verbatim_at_1": 1.0, "verbatim_at_5": 1.0, "renamed_at_1": 0.0, "renamed_at_5": renamed_at_5}

    assert best_order({"score": recall(0.8), "score_per_target": recall(0.9)}) == "score_per_target"


def test_no_settings_are_both_chosen_and_tried() -> None:
    for tool, tried in TRIED.items():
        assert not set(CHOSEN[tool]) & set(tried)
        assert not set(CHOSEN[tool].values()) & set(tried.values())
    with pytest.raises(InputError, match="no variant"):
        settings_of("bergson", "magic")
