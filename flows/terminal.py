"""The one way from finf to the terminal: what was written by others is shown there and never obeyed.

Names, ids, texts and the errors of libraries may hold ANSI escapes, carriage returns, bidi overrides or newlines: they
are spelt out (`finf_core.report.visible`). What the terminal's encoding lacks is spelt out too, and no reason to fail.
"""

import json
import math
import sys
import traceback
from io import TextIOWrapper
from types import TracebackType
from typing import Any

from finf_core.report.visible import visible_line, visible_text
from flows import json_log


def prepare_terminal() -> None:
    """Call before anything is printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _show_unexpected


def show_text(text: str) -> None:
    """A result for people, on standard output; its newlines stay."""
    print(visible_text(text))


def show_json(result: dict[str, Any]) -> None:
    """A result for programs, on one line of ASCII: JSON escapes every other character by itself."""
    print(json.dumps(_plain(result), default=str, allow_nan=False))


def show_error(error: Exception) -> None:
    """An error that finf knows, on one line of standard error."""
    if json_log.is_wanted():
        json_log.log("error", visible_line(str(error)), event=type(error).__name__)
        return
    print(f"finf: {visible_line(str(error))}", file=sys.stderr)


def _show_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = visible_text("".join(traceback.format_exception(kind, error, trace)))
    if json_log.is_wanted():
        json_log.log("critical", visible_line(str(error)), event=kind.__name__, traceback=text)
    else:
        print(text, end="", file=sys.stderr)


def _plain(value: Any) -> Any:
    """The value with null for numbers that JSON does not have: NaN and the infinities."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
