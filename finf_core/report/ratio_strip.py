"""The mirror ratios of one query's rows as strokes on a line, over what chance gives: drawn as SVG without a browser.

What is the same for every query (the null, the axis, its labels) is drawn once per page and referred to by id.
"""

from collections.abc import Sequence

from markupsafe import Markup

from finf_core.report.histogram_svg import EXACT_COPY, Histogram
from finf_core.report.number_text import decimal_text

LOWEST, HIGHEST = -0.25, 1.25  # ratios outside are drawn at the end of the line
HEAP_SHARE = 0.999
_UNITS = 1500  # of the line's width
_TOP, _AXIS, _BELOW, _LABEL, _FIRST, _SECOND, _HEIGHT = 2, 18, 25, 38, 54, 69, 74  # pixels from the top


def strip_null(histogram: Histogram, control_maxima: Sequence[float], threshold: float | None) -> Markup:
    """The hidden picture that every strip refers to: the heap of all pairs, the controls, the axis, and its legend."""
    heap = central_range(histogram)
    parts = [f'<line class="axis" x1="0" x2="100%" y1="{_AXIS}" y2="{_AXIS}"/>']
    if heap is not None:
        left, right = (_place(value) / _UNITS * 100 for value in heap)
        box = f'x="{left:.2f}%" width="{right - left:.2f}%" y="{_TOP}" height="{_AXIS - _TOP}"'
        parts += [f'<rect class="heap" {box}/>', _note(_FIRST, "band: 99.9 % of all pairs of query and row")]
    if control_maxima:
        parts += [
            _paths((("control", control_maxima),), _AXIS, _BELOW),
            _note(_SECOND if heap else _FIRST, "strokes below the line: each control’s largest"),
        ]
    labels = {0.0: "0", EXACT_COPY: "1, exact copy"}
    if threshold is not None:
        labels[threshold] = f"{decimal_text(threshold)}, threshold"
    parts += [_label(value, text) for value, text in labels.items()]
    return Markup(f'<svg class="unseen" aria-hidden="true"><g id="strip-null">{"".join(parts)}</g></svg>')


def ratio_strip(ratios: Sequence[float], threshold: float | None) -> Markup:
    over = [ratio for ratio in ratios if threshold is not None and ratio >= threshold]
    under = [ratio for ratio in ratios if threshold is None or ratio < threshold]
    label = f"Mirror ratios of {len(ratios)} rows: {', '.join(decimal_text(ratio) for ratio in ratios[:5])}"
    return Markup(
        f'<svg class="strip" role="img" aria-label="{label}" height="{_HEIGHT}"><use href="#strip-null"/>'
        f"{_paths((('under', under), ('over', over)), _TOP, _AXIS)}</svg>"
    )


def central_range(histogram: Histogram, share: float = HEAP_SHARE) -> tuple[float, float] | None:
    """The edges between which all but (1 - share) / 2 of the pairs on either side lie; `None` without pairs."""
    counts = (histogram.below, *histogram.counts, histogram.above)
    rest = sum(counts) * (1 - share) / 2
    if not sum(counts):
        return None
    low, high = (max(1, _bins_within(each, rest)) for each in (counts, counts[::-1]))  # 1: the outermost edge
    return histogram.edges[low - 1], histogram.edges[-high]


def _bins_within(counts: Sequence[int], rest: float) -> int:
    """How many bins from the left hold no more than `rest` pairs together."""
    total = 0
    for index, count in enumerate(counts):
        total += count
        if total > rest:
            return index
    return len(counts)


def _place(ratio: float) -> int:
    return round(_UNITS * min(1.0, max(0.0, (ratio - LOWEST) / (HIGHEST - LOWEST))))


def _paths(kinds: Sequence[tuple[str, Sequence[float]]], top: int, bottom: int) -> str:
    """Strokes as one path for each kind, stretched to the strip's width: a hundred strokes take a line of text."""
    paths = "".join(
        f'<path class="{kind}" d="{"".join(f"M{_place(ratio)} {top}V{bottom}" for ratio in ratios)}"/>'
        for kind, ratios in kinds
        if ratios
    )
    size = f'viewBox="0 0 {_UNITS} {_HEIGHT}" width="100%" height="{_HEIGHT}"'
    return f'<svg {size} preserveAspectRatio="none">{paths}</svg>'


def _label(value: float, text: str) -> str:
    return f'<text x="{_place(value) / _UNITS * 100:.2f}%" y="{_LABEL}" text-anchor="middle">{text}</text>'


def _note(y: int, text: str) -> str:
    return f'<text class="strip-note" x="0" y="{y}">{text}</text>'
