"""Text with marks: the words that query and row share, what each token lost, what was read and not scored.

Offsets count characters of the raw text. The text is cut first and each piece made visible afterwards, because a
spelt-out character is longer than itself. Marks may overlap, and may reach beyond the text.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from finf_core.report.number_text import decimal_text
from finf_core.report.visible import visible_markup

HEAT_EDGES = (0.25, 0.75, 1.5, 3.0)  # mirror ratios; a token's own varies far more than that of a whole span
SHARED = "shared"


class Mark(NamedTuple):
    start: int
    stop: int
    kind: str  # a class of the style sheet
    title: str = ""


def query_markup(query: Mapping[str, Any]) -> Markup:
    """The query's excerpt: its context, and what it shares with each of its rows (class `of-` and the row's rank)."""
    marks = [Mark(0, query["context_characters"], "context")]
    for row in query["top"]:
        for start, stop, _, _ in (row["evidence"] or {"spans": ()})["spans"]:
            marks += [Mark(start, stop, SHARED), Mark(start, stop, f"of-{row['rank']}")]
    return marked_text(query["text_excerpt"], marks)


def asked_markup(asked: Mapping[str, Any]) -> Markup:
    """What was asked, in a gallery: its context, which is not scored."""
    return marked_text(asked["text"], [Mark(0, asked.get("context_characters", 0), "context")])


def card_markup(card: Mapping[str, Any]) -> Markup:
    """The text of a card, with the marks of its evidence where it has any."""
    evidence = card.get("evidence")
    return visible_markup(card["text"]) if evidence is None else row_markup(evidence)


def row_markup(evidence: Mapping[str, Any]) -> Markup:
    """A part of a row: what it shares with the query, and how much of the query's loss each token took along."""
    shared = [Mark(start, stop, SHARED) for _, _, start, stop in evidence["spans"]]
    return marked_text(evidence["text"], [*shared, *_heat_marks(evidence["token_ends"], evidence["token_ratios"])])


def heat_class(ratio: float | None) -> str:
    """`hot1` to `hot4` for what was lost with the query, `cold1` to `cold4` for what became better, else nothing."""
    if ratio is None or not math.isfinite(ratio):
        return ""
    level = sum(abs(ratio) >= edge for edge in HEAT_EDGES)
    return f"{'hot' if ratio > 0 else 'cold'}{level}" if level else ""


def marked_text(text: str, marks: Iterable[Mark]) -> Markup:
    return Markup("".join(_element(piece, kinds, title) for piece, kinds, title in _pieces(text, marks)))


def _heat_marks(token_ends: Sequence[int], token_ratios: Sequence[float | None]) -> Iterator[Mark]:
    """Neighbours of one class become one mark: a page of single tokens would be several times larger."""
    starts = (0, *token_ends)
    tokens = zip(starts, token_ends, token_ratios, strict=False)
    for kind, group in groupby(tokens, key=lambda token: heat_class(token[2])):
        if kind:
            run = list(group)
            mean = decimal_text(sum(ratio or 0.0 for _, _, ratio in run) / len(run))
            title = mean if len(run) == 1 else f"{mean}, mean of {len(run)} tokens"
            yield Mark(run[0][0], run[-1][1], kind, title)


def _pieces(text: str, marks: Iterable[Mark]) -> Iterator[tuple[str, list[str], str]]:
    """Cut the text wherever a mark begins or ends; with each piece come the kinds that lie over it, and a title."""
    begun: defaultdict[int, list[Mark]] = defaultdict(list)
    cuts = {0, len(text)}
    for mark in marks:
        start, stop = _cut(text, mark.start), _cut(text, mark.stop)
        if start < stop:
            begun[start].append(mark._replace(stop=stop))
            cuts |= {start, stop}
    over: list[Mark] = []
    for start, stop in pairwise(sorted(cuts)):
        over = [mark for mark in over if mark.stop > start] + begun[start]
        titles = [mark.title for mark in over if mark.title]
        yield text[start:stop], sorted({mark.kind for mark in over}), titles[0] if titles else ""


def _cut(text: str, place: int) -> int:
    """A place inside the text, and not within a Windows newline, which is shown as one."""
    place = min(max(place, 0), len(text))
    return place - 1 if text[place - 1 : place + 1] == "\r\n" else place


def _element(piece: str, kinds: Sequence[str], title: str) -> Markup:
    if not kinds:
        return visible_markup(piece)
    tag = "mark" if SHARED in kinds else "span"
    attributes = f'class="{escape(" ".join(kinds))}"' + (f' title="{escape(title)}"' if title else "")
    return Markup(f"<{tag} {attributes}>{visible_markup(piece)}</{tag}>")
