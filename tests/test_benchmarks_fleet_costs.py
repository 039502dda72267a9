"""The cost sheet of a fleet is arithmetic on measured figures: here by hand."""

import pytest

from benchmarks import fleet_costs
from benchmarks.fleet_costs import Measured, cost_sheet, costs_of, default_keeps

MEASURED = Measured(
    ms_per_answer={8: 1.0, 64: 2.0, 512: 4.0},
    name_ms_per_unit=0.5,
    merge_us_per_candidate={164: 2.0, 10_000: 3.0},
    bytes_per_candidate={164: 60.0, 10_000: 50.0},
    reads_per_unit=9.0,
    listing_seconds=0.0,
)


@pytest.fixture
def nobody_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet_costs.DEATHS_PER_HOUR, fleet_costs.USUAL, 0.0)
    for name in ("LOAD_SECONDS", "SLOW_SHARE", "FAILURE_SHARE", "SPREAD"):
        monkeypatch.setattr(fleet_costs, name, 0.0)
    monkeypatch.setattr(fleet_costs, "TOKENS", {"1 B": 10**9})


def test_passes_are_those_of_the_strategies() -> None:
    costs = costs_of(10**9, 164, 100)
    assert costs["every_query"].forward_equivalents == 165
    assert costs["one_pass"].first_pass == 1.6
    assert costs["one_pass"].rescoring == pytest.approx(164 * 125 / 1_000_000)
    assert costs_of(10**9, 164, None)["one_pass"].rescoring == pytest.approx(164 * 5120 / 1_000_000)


@pytest.mark.usefixtures("nobody_dies")
def test_a_line_of_the_sheet_by_hand() -> None:
    line = cost_sheet(MEASURED, price=3.0)[0]
    assert (line["tokens"], line["model"], line["queries"]) == ("1 B", "1B", 164)
    pass_hours = 10**9 / 151_000 / 3600
    first, kept = 1.6 * pass_hours, 164 * 125 / 1e6 * pass_hours
    merge = 1000 * 164 * 125 * 2e-6 / 3600  # a thousand units
    assert line["gpu_hours"] == pytest.approx(first + kept)
    assert line["merge_hours"] == pytest.approx(merge)
    scoring = first / 1000 * 16  # 1,000 units by 64 actors
    answers = 64 * 0.0025 / 3600  # all at once, sixteen times and when they are loaded
    assert scoring < line["scoring_hours_64"] < scoring + 17 * answers
    assert line["wall_hours_64"] == pytest.approx(line["scoring_hours_64"] + merge + kept / 11)  # 11 bundles
    assert line["dollars_64"] == pytest.approx(64 * 3.0 * line["wall_hours_64"])
    assert line["store_gb"] == pytest.approx(1000 * 164 * 125 * 60 / 1e9)
    assert line["request_dollars"] == pytest.approx(1000 * (2 * 5e-6 + 9 * 4e-7))


@pytest.mark.usefixtures("nobody_dies")
def test_what_cannot_be_done_is_marked() -> None:
    assert {(line["model"], line["is_possible"]) for line in cost_sheet(MEASURED, 3.0)} == {
        ("1B", True),
        ("7B", True),
        ("70B", False),
    }


def test_an_answer_costs_what_the_next_larger_crew_measured() -> None:
    assert [MEASURED.answer_seconds(seats) for seats in (8, 9, 512, 1000)] == [0.0015, 0.0025, 0.0045, 0.0045]


def test_what_the_default_keeps_grows_with_the_corpus_up_to_what_one_machine_can_take() -> None:
    kept = [each["kept_rows"] for each in default_keeps()]
    assert kept == [5120, 12_288 * 1.25, 12_288 * 1.25]
    assert default_keeps()[2]["merged_gb"] == pytest.approx(164 * 15_360 * 512 / 1e9)
