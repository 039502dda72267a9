"""A scan on a fleet of spot GPUs: what its coordinator costs (measured), how it would go (simulated), what it would
cost (projected). Writes docs/FLEET.md.

    python -m benchmarks.fleet [--page docs/FLEET.md] [--made FILE] [--price 2.25] [--json]

`--made`: what an earlier `--json` printed, or some of its parts: only those that are missing are made. All of them take
half an hour on a busy machine and 7 GB.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.environment import set_environment

set_environment()

from benchmarks.fleet_costs import (  # noqa: E402
    DEATHS_PER_HOUR,
    FIRST_PASS,
    KEPT_ROWS,
    QUERIES,
    ROW_TOKENS,
    SPOT_DOLLARS,
    TOKENS_PER_SECOND,
    UNIT_ROWS,
    USUAL,
    Measured,
    cost_sheet,
    default_keeps,
    fleet_of,
)
from benchmarks.fleet_crew import measure_answers  # noqa: E402
from benchmarks.fleet_page import render_page  # noqa: E402
from benchmarks.fleet_simulation import KINDS, Fleet, simulate  # noqa: E402
from benchmarks.fleet_state import measure_state  # noqa: E402
from benchmarks.fleet_store import measure_listing, measure_requests, measure_results  # noqa: E402

UNITS = (100_000, 1_000_000, 10_000_000)
ACTORS = (8, 64, 512)
SEATS = (8, 64, 256, 512)
UNIT_SECONDS = FIRST_PASS * ROW_TOKENS * UNIT_ROWS / TOKENS_PER_SECOND["1B"]  # a row group, first pass
SWEEP_SECONDS = 1_800  # of work for every actor
SWEPT_SECONDS = (0.3, 0.6, 1.36, UNIT_SECONDS, 55.0, 600.0)
DEFAULT_KEPT = 4096  # of a million rows, for 164 queries
READS = ("resolve, a shard", "read, a unit", "merge, a unit")
RESULTS = (  # queries, rows of a unit, rows kept for each query, units
    (QUERIES[0], UNIT_ROWS, KEPT_ROWS, 40),
    (QUERIES[0], UNIT_ROWS, DEFAULT_KEPT, 20),
    (QUERIES[1], UNIT_ROWS, KEPT_ROWS, 3),
)


def measured_of(found: Mapping[str, Any]) -> Measured:
    """What the simulation and the cost sheet need of it."""
    few = {each["queries"]: each for each in found["results"] if each["kept_rows"] == KEPT_ROWS}
    candidates = {queries: queries * min(each["rows"], 1.25 * KEPT_ROWS) for queries, each in few.items()}
    requests = found["requests"]
    return Measured(
        ms_per_answer={round(each["seats"]): each["ms_per_answer"] for each in found["answers"]},
        name_ms_per_unit=max(each["name_ms_per_unit"] for each in found["state"]),
        merge_us_per_candidate={
            queries: 1000 * each["merge_cpu_ms_per_unit"] / candidates[queries] for queries, each in few.items()
        },
        bytes_per_candidate={queries: each["bytes_per_unit"] / candidates[queries] for queries, each in few.items()},
        reads_per_unit=sum(requests[what].get(kind, 0) for what in READS for kind in ("GET", "HEAD")),
        listing_seconds=found["listing"]["cpu_seconds_per_million"] / 1e6,
    )


def run(num_units: int, fleet: Fleet, **names: Any) -> dict[str, Any]:
    started = time.perf_counter()
    outcome = simulate(fleet, num_units)
    return names | {
        "units": num_units,
        "actors": fleet.num_actors,
        "unit_seconds": fleet.unit_seconds,
        "wall_hours": outcome.wall_seconds / 3600,
        "overhead": outcome.overhead,
        "num_deaths": outcome.num_deaths,
        "num_done_again": outcome.num_broken_off + outcome.num_failures,
        "num_given_up": outcome.num_given_up,
        "shares": {kind: outcome.share(kind) for kind in KINDS},
        "simulation_seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--made", type=Path, help="JSON of an earlier call, or some of its parts")
    parser.add_argument("--price", type=float, default=SPOT_DOLLARS, help="dollars for an hour of one spot GPU")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = json.loads(arguments.made.read_text()) if arguments.made else {}
    complete(found, arguments.price)
    if arguments.page:
        arguments.page.write_text(render_page(found), encoding="utf-8")
    print(json.dumps(found, indent=None if arguments.json else 2))


def complete(found: dict[str, Any], price: float) -> None:
    """Make the parts that are not there."""
    parts: dict[str, Callable[[], Any]] = {
        "date": lambda: time.strftime("%Y-%m-%d"),
        "price": lambda: price,
        "answers": lambda: measure_answers(SEATS),
        "state": lambda: [measure_state(num_units) for num_units in UNITS],
        "requests": measure_requests,
        "listing": measure_listing,
        "results": lambda: [measure_results(*each) for each in RESULTS],
        "runs": lambda: _runs(measured_of(found)),
        "sweep": lambda: _sweep(measured_of(found)),
        "default_keeps": default_keeps,
        "cost_sheet_is_a_projection": lambda: cost_sheet(measured_of(found), found["price"]),
    }
    for name, make in parts.items():
        if name not in found:
            found[name] = make()


def _runs(measured: Measured) -> list[dict[str, Any]]:
    return [
        run(num_units, fleet_of(measured, num_actors, UNIT_SECONDS, deaths), deaths=deaths)
        for num_units, num_actors, deaths in itertools.product(UNITS, ACTORS, DEATHS_PER_HOUR)
    ]


def _sweep(measured: Measured) -> list[dict[str, Any]]:
    return [
        run(round(num_actors * SWEEP_SECONDS / seconds), fleet_of(measured, num_actors, seconds), deaths=USUAL)
        for num_actors, seconds in itertools.product(ACTORS[1:], SWEPT_SECONDS)
    ]


if __name__ == "__main__":
    main()
