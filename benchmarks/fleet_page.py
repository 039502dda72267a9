"""docs/FLEET.md, from what `benchmarks.fleet` found."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.fleet_costs import DEATHS_PER_HOUR, NOT_POSSIBLE, throughput
from tasks.actor_crew import MAX_DEATHS
from tasks.actor_plan import CLUSTER_PATIENCE_SECONDS
from tasks.bundles import BUNDLE_QUERIES

TEMPLATE = Path(__file__).with_suffix(".md")
GB = 1e9
KINDS = ("lost", "boot", "slow", "coordinator", "idle")

Found = Mapping[str, Any]


def render_page(found: Found) -> str:
    tables = {
        "keeps_table": _keeps(found),
        "cost_table": _costs(found),
        "runs_table": _runs(found),
        "sweep_table": _sweep(found),
        "answers_table": _answers(found),
        "state_table": _state(found),
    }
    figures = _figures(found) | {name: "\n".join(lines) for name, lines in tables.items()}
    return TEMPLATE.read_text(encoding="utf-8").format(**figures)


def _figures(found: Found) -> dict[str, Any]:
    few, default, many = (each["merge_cpu_ms_per_unit"] for each in found["results"])
    seconds, listing = found["runs"][0]["unit_seconds"], found["listing"]
    answer_of = {each["seats"]: each["ms_per_answer"] for each in found["answers"]}
    peak_of = {each["num_units"]: each["peak_bytes"] / GB for each in found["state"]}
    swept = _swept(found)
    sheet = {(line["tokens"], line["model"], line["queries"]): line for line in found["cost_sheet_is_a_projection"]}
    large = sheet["1 T", "1B", 164]
    runs = _by_deaths(found)
    more = [100 * (each["overhead"] - calm["overhead"]) for calm, *others in runs.values() for each in others]
    return {
        "hours_1t": large["gpu_hours"],
        "cost_1t": _dollars(large["dollars_64"]),
        "lost_1t": _dollars(large["dollars_64"] - large["dollars_without_merge_64"]),
        "cost_1t_512": _dollars(large["dollars_512"]),
        "requests_1t": _dollars(large["request_dollars"]),
        "deaths_least": min(more),
        "deaths_most": max(more),
        "looks_1m": 100 * runs[1_000_000, 512][1]["shares"]["coordinator"],
        "date": found["date"],
        "price": found["price"],
        "unit_seconds": seconds,
        "merge_few": few,
        "merge_default": default,
        "merge_many": many / 1000,
        "merge_10b": 10_000 * default / 1000 / 3600,
        "merge_1t": 1_000_000 * default / 1000 / 3600,
        "gpus_few": math.ceil(1000 * seconds / few),
        "gpus_default": math.ceil(1000 * seconds / default),
        "gpus_many": math.ceil(1000 * seconds / many),
        "bundles": math.ceil(found["results"][0]["queries"] / BUNDLE_QUERIES),
        "lists_10m": 10_000,
        "listing_cpu": listing["cpu_seconds_per_million"],
        "listing_minutes": listing["cpu_seconds_per_million"] / 6,
        "listing_peak": listing["peak_bytes_per_object"],
        "listing_gb": listing["peak_bytes_per_object"] / 100,
        "listing_kept": listing["kept_bytes_per_object"],
        "peak_10m": peak_of[10_000_000],
        "peak_1m": peak_of[1_000_000],
        "answer_512": answer_of[512],
        "answer_8": answer_of[8],
        "rate_512": 1000 / answer_of[512],
        "shortest_512": 0.512 * answer_of[512],
        "name_ms": found["state"][-1]["name_ms_per_unit"],
        "patience": CLUSTER_PATIENCE_SECONDS / 60,
        "given_up": sum(run["num_given_up"] for run in found["runs"]),
        "speed_70b": throughput(NOT_POSSIBLE),
        "long_unit": -math.log(1 - 0.001 ** (1 / MAX_DEATHS)) / DEATHS_PER_HOUR["scarce"],
        "sweep_head": " | ".join(f"{seconds:g} s" if seconds < 5 else f"{seconds:.0f} s" for seconds in swept),
        "sweep_rule": "---|" * len(swept),
        "requests_text": "; ".join(_requests(found)),
    }


def _keeps(found: Found) -> Iterator[str]:
    ms_per_unit = found["results"][1]["merge_cpu_ms_per_unit"]
    for each in found["default_keeps"]:
        yield (
            f"| {each['tokens']} tokens | {each['kept_rows']:,.0f} | {each['merged_gb']:,.1f} GB | "
            f"{each['bundle_rows']:,.0f} rows, {each['bundle_gb']:,.0f} GB of tokens | "
            f"{each['num_units'] * ms_per_unit / 1000 / 3600:,.1f} h |"
        )


def _costs(found: Found) -> Iterator[str]:
    for line in found["cost_sheet_is_a_projection"]:
        name = f"{line['tokens']}, {line['model']}, {line['queries']:,}"
        cells = [name if line["is_possible"] else f"*{name}: not possible*"]
        cells += [_short(line[f"gpu_hours{which}"]) for which in ("", "_default", "_every_query")]
        for gpus in (64, 512):
            wall, merge = _short(line[f"wall_hours_{gpus}"]), _short(line["merge_hours"])
            cells.append(f"{wall} h ({merge}), {_dollars(line[f'dollars_{gpus}'])}")
        cells.append(_dollars(line["dollars_without_merge_64"]))
        cells.append(f"{_short(line['store_gb'])}, {_dollars(line['month_dollars'])}")
        yield f"| {' | '.join(cells)} |"


def _by_deaths(found: Found) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(units, actors) -> its runs, as `DEATHS_PER_HOUR` orders them."""
    runs = {(run["units"], run["actors"], run["deaths"]): run for run in found["runs"]}
    sizes = dict.fromkeys((units, actors) for units, actors, _ in runs)
    return {size: [runs[*size, deaths] for deaths in DEATHS_PER_HOUR] for size in sizes}


def _runs(found: Found) -> Iterator[str]:
    for (units, actors), (calm, day, scarce) in _by_deaths(found).items():
        wall = day["wall_hours"]
        over = " / ".join(f"{run['overhead']:.2f}" for run in (calm, day, scarce))
        shares = " / ".join(f"{100 * scarce['shares'][kind]:.1f} %" for kind in KINDS)
        lasts = f"{wall:.1f} h" if wall < 100 else f"{wall / 24:,.0f} days"
        yield f"| {units:,} | {actors} | {lasts} | {over} | {scarce['num_done_again']:,} | {shares} |"


def _swept(found: Found) -> list[float]:
    return list(dict.fromkeys(run["unit_seconds"] for run in found["sweep"]))


def _sweep(found: Found) -> Iterator[str]:
    for actors in dict.fromkeys(run["actors"] for run in found["sweep"]):
        cells = [
            f"{run['overhead']:.2f}, {100 * run['shares']['coordinator']:.1f} %"
            for run in found["sweep"]
            if run["actors"] == actors
        ]
        yield f"| {actors} | {' | '.join(cells)} |"


def _answers(found: Found) -> Iterator[str]:
    for name, key in (("ms an answer", "ms_per_answer"), ("of it CPU of the loop itself", "cpu_ms_per_answer")):
        yield f"| {name} | " + " | ".join(f"{each[key]:.2f}" for each in found["answers"]) + " |"


def _state(found: Found) -> Iterator[str]:
    for what in found["state"][0]["held_bytes"]:
        cells = [
            f"{each['held_bytes'][what] / GB:.2f} GB, {each['cpu_seconds'][what]:.0f} s" for each in found["state"]
        ]
        yield f"| {what} | {' | '.join(cells)} |"
    yield "| peak of the process | " + " | ".join(f"{each['peak_bytes'] / GB:.1f} GB" for each in found["state"]) + " |"


def _requests(found: Found) -> Iterator[str]:
    for what, counts in found["requests"].items():
        yield f"{what}: " + ", ".join(f"{number:.0f} {method}" for method, number in counts.items())


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 1 else f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def _dollars(number: float) -> str:
    return f"${number:.2f}" if number < 10 else f"${number:,.0f}"
