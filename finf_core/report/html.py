"""One report mapping in, one self-contained HTML page out.

The page holds text of the corpus, which nobody has vetted. Three nets lie under it: Jinja2 escapes every value,
`visible_text` spells out hidden characters in every value, and a content security policy allows only the style and
the script of this package, by hash, and no request at all. The page is complete without its script, which only adds
sorting, filtering and speed: the evidence of a query lies in a `<noscript>`, which a browser with scripts keeps as
plain text until the query is opened (`evidence.js`).
"""

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import UndefinedError
from markupsafe import Markup

from finf_core.errors import InputError
from finf_core.report.histogram_svg import Histogram, histogram_svg
from finf_core.report.next_steps import next_steps
from finf_core.report.outcomes import badness
from finf_core.report.ratio_strip import ratio_strip, strip_null
from finf_core.report.row_links import common_folder
from finf_core.report.template_environment import environment

_STYLES = ("report.css", "overview.css", "queries.css", "evidence.css")
_SCRIPTS = ("queries.js", "evidence.js")
_PLACES = {"shard": "By shard", "source": "By source", "date": "By date"}

Query = Mapping[str, Any]


class Places(NamedTuple):
    title: str
    folder: str  # what all names begin with
    entries: Sequence[Mapping[str, Any]]
    num_more: int


def render_report(report: Mapping[str, Any]) -> str:
    """Render the content of a run's `report.json` as a page.

    Raises:
        InputError: the mapping lacks a key, or its histogram is malformed.
    """
    try:
        return environment().get_template("report.html").render(_context(report))
    except (KeyError, UndefinedError) as error:
        raise InputError(
            f"the report lacks a key ({error}); write report.json again with this version of finf"
        ) from error


def _context(report: Mapping[str, Any]) -> dict[str, Any]:
    css, script = ("\n".join(map(asset, names)) for names in (_STYLES, _SCRIPTS))
    queries = sorted(report["queries"], key=_order)
    maxima, of_controls = (_ratios(part, "max_mirror_ratio") for part in (queries, report["controls"]))
    histogram, threshold = _histogram(report["histogram"]), report["verdict"]["threshold"]
    return {
        "report": report,
        "queries": queries,
        "headline": headline(report["summary"]),
        "next_steps": next_steps(report),
        "has_evidence": any(row["evidence"] for query in queries for row in query["top"]),
        "places": list(_places(report["places"])),
        "chart": histogram_svg(histogram, threshold, maxima, of_controls),
        "strip_null": strip_null(histogram, of_controls, threshold),
        "strip_of": lambda query: ratio_strip(_ratios(query["top"], "mirror_ratio"), threshold),
        "css": Markup(css),
        "script": Markup(script),
        "policy": content_policy(css, script),
    }


def _histogram(histogram: Mapping[str, Any]) -> Histogram:
    return Histogram(histogram["edges"], histogram["counts"], histogram["below"], histogram["above"])


def headline(summary: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    num_leaked, num_queries = summary["num_leaked"], summary["num_queries"]
    noun = "query" if num_queries == 1 else "queries"
    if num_leaked == 0:
        return f"No leak found in {num_queries:,} {noun}"
    return f"{num_leaked:,} of {num_queries:,} {noun} leaked"


def _places(places: Mapping[str, Any]) -> Iterator[Places]:
    for kind, title in _PLACES.items():
        if places[kind]:
            folder = common_folder(place["name"] for place in places[kind])
            yield Places(title, folder, places[kind], places[f"{kind}_more"])


def _order(query: Query) -> tuple[int, float, float]:
    """The worst outcome first, then the surest, then the largest ratio; unknown numbers last."""
    q_value, ratio = query["q_value"], query["max_mirror_ratio"]
    return (
        -badness(query["outcome"]),
        q_value if _is_number(q_value) else math.inf,
        -ratio if _is_number(ratio) else math.inf,
    )


def _ratios(items: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [item[key] for item in items if _is_number(item[key])]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def content_policy(css: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_source_hash(css)}'; script-src '{_source_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def asset(name: str) -> str:
    return files("finf_core.report").joinpath(name).read_text(encoding="utf-8")
