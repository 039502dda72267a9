"""A budget: hours and money are counted, what is in flight is finished, and a run that was stopped goes on."""

import json
from pathlib import Path

import pytest
from pool_actors import Worker
from test_scan import FOUND_LEAKAGE, run_finf, write_inputs

from finf_core.errors import InputError
from tasks.actor_pool import ActorPool, PoolOptions
from tasks.budget import Budget, BudgetOptions, BudgetReachedError, Spending, read_spending

BUDGET_REACHED = 5
HOUR = 3600.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_hours(self, hours: float) -> None:
        self.now += hours * HOUR


def test_hours_of_actors_are_counted_while_they_are_held(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(BudgetOptions(price_per_hour=2.5), str(tmp_path), clock)
    for num_actors, hours in ((0, 7), (2, 1), (3, 0.5)):
        clock.pass_hours(hours)
        budget.count(num_actors)
    assert budget.spent == Spending(3.5, 8.75)
    assert read_spending(str(tmp_path)) == Spending(3.5, 8.75)


def test_what_all_processes_spent_counts(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (Budget(BudgetOptions(max_cost=10, price_per_hour=price), str(tmp_path), clock) for price in (1, 4))
    clock.pass_hours(1)
    first.count(4)
    second.count(1)
    assert second.spent == Spending(5, 8)
    assert second.reason_to_stop() is None
    clock.pass_hours(0.5)
    second.count(1)
    assert second.reason_to_stop() == "10.00 of 10"
    assert first.reason_to_stop() is None  # has not looked since
    clock.pass_hours(0.1)
    first.count(0)
    assert first.reason_to_stop() == "10.00 of 10"


def test_hours_without_a_price_make_no_cost_up(tmp_path: Path) -> None:
    (tmp_path / "earlier.json").write_text(json.dumps({"actor_hours": 2, "price_per_hour": None}))
    assert read_spending(str(tmp_path)) == Spending(2, None)
    budget = Budget(BudgetOptions(max_cost=10, price_per_hour=1), str(tmp_path))
    budget.note()
    assert budget.reason_to_stop() == "earlier hours of this run have no price, so max_cost cannot be kept"


@pytest.mark.parametrize("note", ["", "[]", '{"actor_hours": "many", "price_per_hour": null}', "{}"])
def test_a_note_that_is_none_is_named(note: str, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(note)
    with pytest.raises(InputError, match=r"odd.json: no note of what a run has spent; delete it"):
        read_spending(str(tmp_path))


def test_hours_of_the_process_are_those_of_the_clock_whoever_works() -> None:
    clock = Clock()
    budget = Budget(BudgetOptions(max_hours=2), clock=clock)
    assert budget.reason_to_stop() is None
    clock.pass_hours(2)
    assert budget.reason_to_stop() == "2.00 of 2 hours"


def test_units_are_begun_as_long_as_the_budget_lasts_and_a_budget_that_lasted_is_no_error() -> None:
    clock = Clock()
    budget = Budget(BudgetOptions(max_hours=3), clock=clock)
    assert list(budget.while_it_lasts(range(4))) == [0, 1, 2, 3]
    budget.check()
    begun = []
    for unit in budget.while_it_lasts(range(4)):
        begun.append(unit)
        clock.pass_hours(2)
    assert begun == [0, 1]
    with pytest.raises(BudgetReachedError, match=r"used up \(4.00 of 3 hours\); what is finished is kept: run again"):
        budget.check()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_hours": 0}, "max_hours = 0: want a positive number"),
        ({"price_per_hour": float("nan")}, "price_per_hour = nan: want a positive number"),
        ({"max_cost": 5}, "max_cost wants price_per_hour"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        BudgetOptions(**options)


def test_a_pool_finishes_what_is_in_flight_begins_nothing_else_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the actors find `pool_actors`
    clock, finished = Clock(), []
    budget = Budget(BudgetOptions(max_hours=1), str(tmp_path / "spending"), clock)
    with ActorPool(Worker, (str(tmp_path),), PoolOptions(num_actors=2), budget=budget) as pool:
        units = pool.map("mark", range(20))
        finished += [next(units)[0], next(units)[0]]
        clock.pass_hours(1)
        with pytest.raises(BudgetReachedError):
            finished.extend(number for number, _ in units)
        done = {int(path.name.removeprefix("done-")) for path in tmp_path.glob("done-*")}
    assert set(finished) == done
    assert 3 <= len(done) <= 5  # one or two were at work, and one may have been at hand
    assert read_spending(str(tmp_path / "spending")).actor_hours in (1, 2)  # the second actor may not have been up yet


def test_a_scan_that_its_budget_stopped_goes_on_with_a_larger_one(
    tiny_checkpoint: Path, tmp_path: Path, finf_environment: dict[str, str]
) -> None:
    config = write_inputs(str(tmp_path), tmp_path, tiny_checkpoint)
    environment = finf_environment | {"FINF_LOG": "json"}

    def scan(*budget: str) -> tuple[int, str, list[dict[str, object]]]:
        command = ("scan", str(config), "--store", str(tmp_path / "store"), "--actors", "1", "--json", *budget)
        done = run_finf(*command, environment=environment)
        return done.returncode, done.stdout, [json.loads(line) for line in done.stderr.splitlines()]

    code, output, log = scan("--price-per-hour", "3600", "--max-cost", "1")
    assert (code, output) == (BUDGET_REACHED, "")
    assert log[-1]["level"] == "error"
    assert "the budget is used up" in str(log[-1]["message"])
    run = str(next((tmp_path / "store").rglob("spec.json")).parent)
    assert not (Path(run) / "report.json").exists()
    before = json.loads(run_finf("status", run, "--json", environment=environment).stdout)
    assert before["cost"] == pytest.approx(3600 * before["actor_hours"])
    assert before["cost"] > 1

    code, output, log = scan("--price-per-hour", "3600", "--max-cost", "100000")
    assert code == FOUND_LEAKAGE
    result = json.loads(output)
    assert (result["run"], result["num_leaked"], result["num_rows"]) == (run, 1, 96)
    progress = [line for line in log if line.get("event") == "progress" and line["stage"] == "score shards"]
    assert progress[-1]["done"] == progress[-1]["total"] == 96
    assert {line["run"] for line in progress} == {run}
    after = json.loads(run_finf("status", run, "--json", environment=environment).stdout)
    assert after["cost"] > before["cost"]
