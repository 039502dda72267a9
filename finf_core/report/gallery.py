"""The report of every run that is no leakage scan: what was asked, and the rows that answer it, as cards.

A mapping with `headline`, `note` and, each optional:

    tables   title, note, columns, rows (of plain values)
    groups   title, text, pictures, facts, and lists: title, note, cards
             a card: title, shard, row, source, value, facts, text, picture (PNG in base64), and optional
             badge (a word or two), evidence (`finf_core.report.marked_text.row_markup`: marks in the text)

and what `record.html` shows of any run. The page is as safe as that of a scan, and for the same reasons
(`finf_core.report.html`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import UndefinedError
from markupsafe import Markup

from finf_core.errors import InputError
from finf_core.report.html import asset, content_policy
from finf_core.report.template_environment import environment

_STYLES = ("report.css", "overview.css", "evidence.css", "gallery.css")


def render_gallery(report: Mapping[str, Any]) -> str:
    """Render the content of a run's `report.json` as a page.

    Raises:
        InputError: the mapping lacks a key.
    """
    try:
        return environment().get_template("gallery.html").render(_context(report))
    except (KeyError, UndefinedError) as error:
        raise InputError(
            f"the report lacks a key ({error}); write report.json again with this version of finf"
        ) from error


def _context(report: Mapping[str, Any]) -> dict[str, Any]:
    css = "\n".join(map(asset, _STYLES))
    return {
        "report": report,
        "headline": report["headline"],
        "tables": report.get("tables", ()),
        "groups": report.get("groups", ()),
        "css": Markup(css),
        "policy": content_policy(css, ""),
        "most": max(map(abs, _values(report)), default=1.0) or 1.0,
        "has_marks": any(each.get("evidence") for each in _cards(report)),
    }


def _values(report: Mapping[str, Any]) -> Iterator[float]:
    return (card["value"] for card in _cards(report) if card["value"] is not None)


def _cards(report: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for group in report.get("groups", ()):
        for found in group["lists"]:
            yield from found["cards"]
