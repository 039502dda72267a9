"""One report mapping in, one self-contained HTML page out.

The page holds text of the corpus, which nobody has vetted. Three nets lie under it: Jinja2 escapes every value,
`visible_text` spells out hidden characters in every value, and a content security policy allows only the style and
the script of this package, by hash, and no request at all. The page is complete without its script, which only adds
sorting and filtering.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from finf_core.errors import InputError
from finf_core.report import number_text
from finf_core.report.histogram_svg import Histogram, histogram_svg
from finf_core.report.visible import visible_markup, visible_text

MAX_SKIPPED_SHOWN = 50
MIN_ROWS_SHOWN = 3  # rows of an open query that are not folded away, even if none reaches the threshold
_LINES_SHOWN = {"full": 14, "brief": 5}  # longer excerpts are clipped until asked for; report.css has the heights
_CHARACTERS_A_LINE = 72


def render_report(report: Mapping[str, Any]) -> str:
    """Render the content of a run's `report.json` as a page.

    Raises:
        InputError: the mapping lacks a key, or its histogram is malformed.
    """
    try:
        return _environment().get_template("report.html").render(_context(report))
    except (KeyError, UndefinedError) as error:
        raise InputError(
            f"the report lacks a key ({error}); write report.json again with this version of finf"
        ) from error


def _context(report: Mapping[str, Any]) -> dict[str, Any]:
    css, script = _asset("report.css"), _asset("report.js")
    queries = sorted(report["queries"], key=_by_ratio, reverse=True)
    if report["verdict"]["fdr"] is not None:
        queries.sort(key=_by_q_value)
    maxima, of_controls = (_ratios(part) for part in (queries, report["controls"]))
    return {
        "report": report,
        "queries": queries,
        "outcome": outcome(report["summary"]),
        "chart": histogram_svg(_histogram(report["histogram"]), report["verdict"]["threshold"], maxima, of_controls),
        "css": Markup(css),
        "script": Markup(script),
        "policy": _policy(css, script),
    }


def _histogram(histogram: Mapping[str, Any]) -> Histogram:
    return Histogram(histogram["edges"], histogram["counts"], histogram["below"], histogram["above"])


def outcome(summary: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    num_leaked, num_queries = summary["num_leaked"], summary["num_queries"]
    noun = "query" if num_queries == 1 else "queries"
    if num_leaked == 0:
        return f"No leak found in {num_queries:,} {noun}"
    return f"{num_leaked:,} of {num_queries:,} {noun} leaked"


def _ratios(queries: Sequence[Mapping[str, Any]]) -> list[float]:
    return [query["max_mirror_ratio"] for query in queries if _is_number(query["max_mirror_ratio"])]


def _by_ratio(query: Mapping[str, Any]) -> float:
    value = query["max_mirror_ratio"]
    return value if _is_number(value) else -math.inf


def _by_q_value(query: Mapping[str, Any]) -> float:
    value = query["q_value"]
    return value if _is_number(value) else math.inf


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _policy(css: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_source_hash(css)}'; script-src '{_source_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return files("finf_core.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("finf_core", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": number_text.count_text,
        "date": number_text.date_text,
        "decimal": number_text.decimal_text,
        "is_long": _is_long,
        "marked": _marked,
        "per_target": number_text.per_target,
        "pretty_json": _pretty_json,
        "probability": number_text.probability_text,
        "seconds": number_text.seconds_text,
        "share": _share,
        "num_shown": _num_shown,
    }
    environment.globals["max_skipped_shown"] = MAX_SKIPPED_SHOWN
    return environment


def _finalize(value: Any) -> Any:
    """Every value that the template prints passes here before it is escaped."""
    if value is None:
        return number_text.MISSING
    return value if isinstance(value, Markup) else visible_text(str(value))


def _marked(value: Any) -> str:
    return number_text.MISSING if value is None else visible_markup(str(value))


def _share(ratio: float | None) -> str:
    """A mirror ratio as the length of a bar: 1 and more fill it."""
    return f"{100 * min(1.0, max(0.0, ratio)):.1f}%" if ratio is not None and math.isfinite(ratio) else "0%"


def _num_shown(rows: Sequence[Mapping[str, Any]], threshold: float | None) -> int:
    """How many of the ranked rows stay unfolded: all that reach the threshold, and never fewer than a few."""
    ratios = [row["mirror_ratio"] for row in rows]
    reaching = sum(1 for ratio in ratios if threshold is not None and _is_number(ratio) and ratio >= threshold)
    return min(len(rows), max(MIN_ROWS_SHOWN, reaching))


def _is_long(text: str | None, size: str) -> bool:
    lines = (text or "").splitlines()
    return sum(1 + len(line) // _CHARACTERS_A_LINE for line in lines) > _LINES_SHOWN[size]


def _pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
