"""The outcome for a machine that gates a build: a page of Markdown, and JUnit's XML with a case for each query.

Ids come from the benchmark and the corpus, which nobody has vetted: hidden characters are spelled out, and nothing in
them is markup.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from finf_core.report.number_text import decimal_text, percent_text, probability_text
from finf_core.report.outcomes import OUTCOMES, badness
from finf_core.report.visible import visible_text

MOST_LINES = 50  # leaked queries that the page names
TABLE_HEAD = "| query | outcome | max mirror ratio | q | words shared | best row | shard | row |"
MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]()<>#+-.!|&~"})
PROSE = str.maketrans({character: f"\\{character}" for character in "\\`<>[]!&"})

Report = Mapping[str, Any]


def render_markdown(report: Report) -> str:
    """What a pull request's reader needs: how many leaked, by which rule, and the first of them with their best row."""
    summary, leaked = report["summary"], leaked_queries(report)
    lines = [
        f"## {len(leaked):,} of {summary['num_queries']:,} queries leaked",
        "",
        f"{_counts(summary['outcomes'])}.",
        "",
        f"{_plain(report['name'])}: {summary['num_rows']:,} rows scanned. "
        f"A query counts as {_prose(report['verdict']['rule'])}. {_prose(report['verdict']['note'])}",
    ]
    if num_set_aside := summary["num_quarantined_rows"]:
        lines += ["", f"**Complete except for {num_set_aside:,} rows**, which nobody could score: see report.html."]
    if leaked:
        lines += ["", TABLE_HEAD, "|---" * TABLE_HEAD.count(" | ") + "|---|"]
        lines += [_table_line(query) for query in leaked[:MOST_LINES]]
    if len(leaked) > MOST_LINES:
        lines += ["", f"… and {len(leaked) - MOST_LINES:,} more: see report.html."]
    return "\n".join(lines) + "\n"


def render_junit(report: Report) -> str:
    """A test suite with a case for each query, of which every leaked one fails; rows set aside are an error."""
    num_set_aside = report["summary"]["num_quarantined_rows"]
    suite = ET.Element(
        "testsuite",
        name=f"finf {_visible(report['name'])}",
        tests=str(len(report["queries"]) + bool(num_set_aside)),
        failures=str(len(leaked_queries(report))),
        errors=str(int(bool(num_set_aside))),
        time=f"{report['summary']['seconds']:.3f}",
    )
    for query in report["queries"]:
        case = ET.SubElement(suite, "testcase", classname="finf.leakage", name=_visible(query["query_id"]))
        if query["leaked"]:
            ET.SubElement(case, "failure", type="leaked", message=_sentence(query))
    if num_set_aside:
        case = ET.SubElement(suite, "testcase", classname="finf.leakage", name="every row was scored")
        ET.SubElement(case, "error", type="set aside", message=f"{num_set_aside:,} rows could not be scored")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def leaked_queries(report: Report) -> list[Mapping[str, Any]]:
    """The worst outcome first, then the surest."""
    leaked = [query for query in report["queries"] if query["leaked"]]
    return sorted(leaked, key=_order)


def _order(query: Mapping[str, Any]) -> tuple[int, float, float]:
    return -badness(query["outcome"]), _or_one(query["q_value"]), -(query["max_mirror_ratio"] or 0.0)


def _counts(outcomes: Mapping[str, int]) -> str:
    """All in one sentence."""
    return "; ".join(f"{num:,} {OUTCOMES[key].short}" for key, num in outcomes.items())


def _or_one(q_value: float | None) -> float:
    return 1.0 if q_value is None else q_value


def _table_line(query: Mapping[str, Any]) -> str:
    ratio, q_value = decimal_text(query["max_mirror_ratio"]), probability_text(query["q_value"])
    numbers = [ratio, q_value, percent_text(query["max_shared"])]
    best = _best(query["top"])
    place = [_plain(best[key]) for key in ("document_id", "shard", "row")]
    cells = [_plain(query["query_id"]), OUTCOMES[query["outcome"]].short, *numbers, *place]
    return f"| {' | '.join(cells)} |"


def _sentence(query: Mapping[str, Any]) -> str:
    best, ratio = _best(query["top"]), decimal_text(query["max_mirror_ratio"])
    return (
        f"{OUTCOMES[query['outcome']].short}: max mirror ratio {ratio}, q {probability_text(query['q_value'])}, "
        f"words shared {percent_text(query['max_shared'])}; best row: "
        f"{_visible(best['document_id'])} (row {best['row']} of {_visible(best['shard'])})"
    )


def _best(top: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return top[0] if top else {"document_id": "–", "shard": "–", "row": "–"}


def _visible(value: object) -> str:
    text = visible_text(str(value)).replace("\n", " ").replace("\t", " ")
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")  # no characters of XML


def _prose(value: object) -> str:
    """Sentences of finf itself, which hold no markup; or of whoever wrote the report."""
    return _visible(value).translate(PROSE)


def _plain(value: object) -> str:
    return _visible(value).translate(MARKUP)
