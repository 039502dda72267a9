"""Jinja2, set up so that no value of a report reaches the page as markup: escaped, and hidden characters spelt out."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finf_core.report import number_text
from finf_core.report.marked_text import asked_markup, card_markup, query_markup, row_markup
from finf_core.report.outcomes import OUTCOMES, badness
from finf_core.report.row_links import row_command, shard_href
from finf_core.report.visible import visible_markup, visible_text

MAX_SKIPPED_SHOWN = 50
MAX_PLACES_SHOWN = 6  # the others are folded away
MIN_ROWS_SHOWN = 3  # rows of an open query that are not folded away, even if none reaches the threshold
CUT_FROM, CUT_TO = 20_000, 2_000  # characters of a name or an id; excerpts are cut when the report is made
_LINES_SHOWN = {"full": 18, "brief": 5}  # longer excerpts are clipped until asked for; evidence.css has the heights
_CHARACTERS_A_LINE = 72


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("finf_core", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "asked_markup": asked_markup,
        "badness": badness,
        "card_markup": card_markup,
        "count": number_text.count_text,
        "date": number_text.date_text,
        "decimal": number_text.decimal_text,
        "found_by": _found_by,
        "half_share": lambda part: _share(abs(part) / 2),
        "is_long": _is_long,
        "left_end": lambda part: _share(0.5 - abs(part) / 2),
        "marked": _marked,
        "num_shown": _num_shown,
        "part": _part,
        "per_target": number_text.per_target,
        "percent": number_text.percent_text,
        "pretty_json": _pretty_json,
        "probability": number_text.probability_text,
        "query_markup": query_markup,
        "row_markup": row_markup,
        "seconds": number_text.seconds_text,
        "share": _share,
    }
    made.globals |= {
        "max_places_shown": MAX_PLACES_SHOWN,
        "max_skipped_shown": MAX_SKIPPED_SHOWN,
        "outcomes": OUTCOMES,
        "row_command": row_command,
        "shard_href": shard_href,
    }
    return made


def _finalize(value: Any) -> Any:
    """Every value that a template prints passes here before it is escaped."""
    if value is None:
        return number_text.MISSING
    return value if isinstance(value, Markup) else visible_text(str(value))


def _marked(value: Any) -> str:
    """A name or an id as markup. One that is longer than a page of text is cut: a browser is slow with such a word."""
    return number_text.MISSING if value is None else visible_markup(_cut(str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= CUT_FROM else f"{text[:CUT_TO]}… ({len(text):,} characters)"


def _share(ratio: float | None) -> str:
    """A mirror ratio, or any other part of 1, as the length of a bar: 1 and more fill it."""
    return f"{100 * min(1.0, max(0.0, ratio)):.1f}%" if ratio is not None and math.isfinite(ratio) else "0%"


def _num_shown(rows: Sequence[Mapping[str, Any]], threshold: float | None) -> int:
    """How many of the ranked rows stay unfolded: all up to the last with evidence or a ratio that reaches the
    threshold, and never fewer than a few.
    """
    reaching = [place for place, row in enumerate(rows, start=1) if row["evidence"] or _reaches(row, threshold)]
    return min(len(rows), max([MIN_ROWS_SHOWN, *reaching]))


def _reaches(row: Mapping[str, Any], threshold: float | None) -> bool:
    ratio = row["mirror_ratio"]
    return threshold is not None and ratio is not None and ratio >= threshold


def _is_long(text: str, size: str) -> bool:
    lines = text.splitlines()
    return sum(1 + len(line) // _CHARACTERS_A_LINE for line in lines) > _LINES_SHOWN[size]


def _part(evidence: Mapping[str, Any]) -> str:
    """Which characters of the row are shown; empty when it is the whole row."""
    first, whole = evidence["first_character"], evidence["num_characters"]
    last = first + len(evidence["text"])
    return "" if first == 0 and last >= whole else f"{first + 1:,} to {last:,} of {whole:,}"


def _found_by(query: Mapping[str, Any]) -> str:
    """What the filter looks at beside the query's id: documents, shards, sources and dates of its rows, once each."""
    keys = ("document_id", "shard", "source", "date")
    return "\n".join(dict.fromkeys(str(row[key]) for key in keys for row in query["top"] if row[key] is not None))


def _pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
