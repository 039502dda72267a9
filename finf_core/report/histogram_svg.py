"""The distribution of all mirror ratios, drawn as SVG without a browser.

Counts are drawn on a log scale: nearly every pair sits at 0, and the few that matter would be invisible beside them.
Horizontal places are percentages and vertical ones pixels, so the chart fills any width and its text keeps its size.
Only numbers enter the markup; colours and fonts are the style sheet's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from finf_core.errors import InputError
from finf_core.report.number_text import count_text, decimal_text

EXACT_COPY = 1.0  # the mirror ratio of a row that equals the query
_TOP, _BASELINE, _TICK_TEXT, _QUERIES, _HEIGHT = 44, 226, 246, 268, 306  # pixels from the top
_FLOOR = 0.5  # count at the baseline, so that a bin with one pair can be seen


class Histogram(NamedTuple):
    edges: Sequence[float]  # one more than counts, rising
    counts: Sequence[int]  # (query, row) pairs per bin
    below: int  # pairs left of the first edge
    above: int  # pairs right of the last edge


def histogram_svg(
    histogram: Histogram, threshold: float | None, query_maxima: Sequence[float], control_maxima: Sequence[float] = ()
) -> Markup:
    """Draw the pairs as bars and the largest ratio of each query (or control, shorter) as a stroke below the axis.

    Raises:
        InputError: the edges do not rise, or their number does not fit the counts.
    """
    _check(histogram)
    edges = histogram.edges
    parts = [
        *_grid(max(histogram.counts)),
        *_bars(histogram, threshold),
        *_axis(edges),
        *_queries(edges, query_maxima, control_maxima, threshold),
        *_marks(edges, threshold),
    ]
    label = f"Histogram of {count_text(sum(histogram.counts))} mirror ratios, counts on a log scale"
    body = "\n".join(parts)
    return Markup(f'<svg class="histogram" role="img" aria-label="{label}" height="{_HEIGHT}">\n{body}\n</svg>')


def _check(histogram: Histogram) -> None:
    num_edges, num_counts = len(histogram.edges), len(histogram.counts)
    if num_counts == 0 or num_edges != num_counts + 1:
        need = "one edge more than counts, and at least one count"
        raise InputError(f"a histogram needs {need}; got {num_edges} edges and {num_counts} counts")
    if any(right <= left for left, right in zip(histogram.edges, histogram.edges[1:], strict=False)):
        raise InputError("the edges of a histogram must rise; sort them and drop doubles")


def _percent(edges: Sequence[float], value: float) -> float:
    return 100.0 * (value - edges[0]) / (edges[-1] - edges[0])


def _height_of(count: float, largest: int) -> float:
    """Pixels above the baseline; the largest count and at least ten fill the plot."""
    share = math.log(count / _FLOOR) / math.log(max(largest, 10) / _FLOOR)
    return share * (_BASELINE - _TOP)


def _grid(largest: int) -> Iterator[str]:
    yield '<text class="label" x="0" y="13">pairs, log scale</text>'
    for exponent in range(len(str(max(largest, 10)))):
        y = _BASELINE - _height_of(10**exponent, largest)
        yield f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick halo" x="0" y="{y - 4:.1f}">{count_text(10**exponent)}</text>'


def _bars(histogram: Histogram, threshold: float | None) -> Iterator[str]:
    edges, largest = histogram.edges, max(histogram.counts)
    for left, right, count in zip(edges, edges[1:], histogram.counts, strict=False):
        if count == 0:
            continue
        height = _height_of(count, largest)
        x, width = _percent(edges, left), 100.0 * (right - left) / (edges[-1] - edges[0])
        kind = "pairs over" if threshold is not None and (left + right) / 2 >= threshold else "pairs"
        title = f"{decimal_text(left)} to {decimal_text(right)}: {count_text(count)}"
        yield (
            f'<rect class="{kind}" x="{x:.3f}%" width="{width:.3f}%" y="{_BASELINE - height:.1f}" '
            f'height="{height:.1f}"><title>{title}</title></rect>'
        )


def _axis(edges: Sequence[float]) -> Iterator[str]:
    yield f'<line class="axis" x1="0" x2="100%" y1="{_BASELINE}" y2="{_BASELINE}"/>'
    step = _tick_step(edges[-1] - edges[0])
    for index in range(math.ceil(edges[0] / step - 1e-9), math.floor(edges[-1] / step + 1e-9) + 1):
        x = _percent(edges, index * step)
        anchor = "start" if x < 2 else "end" if x > 98 else "middle"
        yield f'<line class="axis" x1="{x:.3f}%" x2="{x:.3f}%" y1="{_BASELINE}" y2="{_BASELINE + 5}"/>'
        digits = 2 if step < 0.1 else 1
        yield (
            f'<text class="tick x-tick" x="{x:.3f}%" y="{_TICK_TEXT}" text-anchor="{anchor}">'
            f"{decimal_text(index * step, digits)}</text>"
        )


def _tick_step(span: float) -> float:
    """The smallest of 0.05, 0.1, 0.25, 0.5, 1, 2, 4 ... that gives at most five ticks."""
    step = next((step for step in (0.05, 0.1, 0.25, 0.5) if span / step <= 4.01), 1.0)
    while span / step > 4.01:
        step *= 2
    return step


def _queries(
    edges: Sequence[float], maxima: Sequence[float], control_maxima: Sequence[float], threshold: float | None
) -> Iterator[str]:
    top, bottom = _QUERIES, _QUERIES + 14
    controls = "; below, each control’s" if control_maxima else ""
    yield f'<text class="label" x="0" y="{_HEIGHT - 4}">each query’s largest ratio{controls}</text>'
    yield f'<text class="label" x="100%" y="{_HEIGHT - 4}" text-anchor="end">mirror ratio →</text>'
    over = [value for value in maxima if threshold is not None and value >= threshold]
    under = [value for value in maxima if threshold is None or value < threshold]
    yield from _strokes(edges, under, "query", top, bottom)
    yield from _strokes(edges, over, "query over", top, bottom)
    yield from _strokes(edges, control_maxima, "control", bottom + 2, bottom + 8)


def _strokes(edges: Sequence[float], values: Sequence[float], kind: str, top: int, bottom: int) -> Iterator[str]:
    for value in sorted(values):
        x = min(100.0, max(0.0, _percent(edges, value)))
        yield f'<line class="{kind}" x1="{x:.3f}%" x2="{x:.3f}%" y1="{top}" y2="{bottom}"/>'


def _marks(edges: Sequence[float], threshold: float | None) -> Iterator[str]:
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        yield from _mark("threshold", _percent(edges, threshold), f"threshold {decimal_text(threshold)}", 13)
    if edges[0] <= EXACT_COPY <= edges[-1]:
        yield from _mark("exact-copy", _percent(edges, EXACT_COPY), "exact copy", 30)


def _mark(kind: str, x: float, text: str, text_y: int) -> Iterator[str]:
    """A line over the plot; its label stands right of it where there is room, each kind on a height of its own."""
    anchor, shift = ("end", -6) if x > 80 else ("start", 6)
    yield f'<line class="mark {kind}" x1="{x:.3f}%" x2="{x:.3f}%" y1="{text_y - 9}" y2="{_BASELINE}"/>'
    yield f'<text class="mark-label {kind}" x="{x:.3f}%" dx="{shift}" y="{text_y}" text-anchor="{anchor}">{text}</text>'
