"""Numbers as a person reads them: a true minus sign, grouped digits, one dash for what is not known."""

import math
from datetime import UTC, datetime

MISSING = "–"


def decimal_text(value: float | None, digits: int = 2) -> str:
    """`-0.5` as `−0.50`; `None` and what is not finite as a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{digits}f}"
    is_zero = not text.strip("-0.,")
    return text.lstrip("-") if is_zero else text.replace("-", "−")


def probability_text(value: float | None) -> str:
    """Two significant digits, so that 0.0004 does not read as zero."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.2g}".replace("-", "−")


def percent_text(share: float | None) -> str:
    """`0.834` as `83 %`; the space does not break."""
    if share is None or not math.isfinite(share):
        return MISSING
    return f"{100 * share:.0f}\u00a0%"


def count_text(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}".replace("-", "−")


def seconds_text(seconds: float | None) -> str:
    """Seconds below a minute keep a decimal; above it the two largest units are enough."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def date_text(timestamp: str) -> str:
    """`2026-11-22T12:00:00Z` as `22 November 2026, 12:00 UTC`; a text that is no ISO date stays as it is."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    if moment.tzinfo is None:
        return f"{moment.day} {moment:%B %Y, %H:%M}"
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def per_target(nats: float | None, num_targets: int | None) -> float | None:
    """A mean is taken last: sum of nats over number of targets, `None` where there is no target."""
    return None if nats is None or not num_targets else nats / num_targets
