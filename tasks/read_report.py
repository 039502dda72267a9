"""Reading a finished run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2

from finf_core.errors import InputError
from finf_core.report.visible import visible_line
from tasks import storage
from tasks.publish_report import renderers

UNLIKE_OURS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    jinja2.TemplateError,
)


def read_report(run_uri: str) -> dict[str, Any]:
    """report.json of a complete run.

    Raises:
        InputError: there is no run, or it is not complete, or what lies there is no report.
    """
    uri = storage.join(run_uri, "report.json")
    if not storage.exists(uri):
        raise InputError(f"{run_uri}: no complete run here (no report.json); `finf status` tells how far it is")
    data = storage.read_bytes(uri)
    with as_written(run_uri):
        report = json.loads(data)
        if not isinstance(report, dict):
            raise TypeError("it is no object")
        return report


def read_scan(run_uri: str) -> dict[str, Any]:
    """As `read_report`, of a leakage scan.

    Raises:
        InputError: it is a run of another kind, which has no verdicts.
    """
    report = read_report(run_uri)
    with as_written(run_uri):
        kind = report["kind"]
    if kind != "scan":
        raise InputError(f"{run_uri}: a run of kind {kind!r} has no verdicts; want one of `finf scan`")
    return report


@contextmanager
def as_written(run_uri: str) -> Iterator[None]:
    """A block that reads what a report holds. Whoever can write to the store may have put another one there.

    Raises:
        InputError: a key is missing, or its value is of another kind than finf writes.
    """
    try:
        yield
    except UNLIKE_OURS as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise InputError(
            f"{run_uri}: report.json is not as this version of finf writes it ({reason}); scan again"
        ) from error


def render_again(run_uri: str, report: dict[str, Any]) -> None:
    """All that is made of report.json and nothing else; nothing is written unless all can be made."""
    with as_written(run_uri):
        rendered = {name: render(report).encode() for name, render in renderers(report).items()}
    for name, data in rendered.items():
        storage.publish_bytes(storage.join(run_uri, name), data)


def report_summary(run_uri: str, report: dict[str, Any]) -> str:
    """The outcome in a few lines for the terminal."""
    with as_written(run_uri):
        summary = report["summary"]
        found = _finding(report)
        cost = f"{summary['num_rows']:,} rows, {summary['num_tokens']:,} tokens in {summary['seconds']:.1f} s"
        lines = [f"{found}; {cost}"]
        if num := summary["num_quarantined_rows"]:
            lines.insert(0, f"complete except for {num:,} rows that were set aside; the report names them and says why")
        if summary["num_skipped_rows"]:
            lines.append(f"{summary['num_skipped_rows']:,} rows could not be scored; the report names them")
    lines.append(f"report: {storage.join(run_uri, 'report.html')}")
    return "\n".join(map(visible_line, lines))


def _finding(report: dict[str, Any]) -> str:
    if report["kind"] != "scan":
        return str(report["headline"])
    summary, rule = report["summary"], report["verdict"]["rule"]
    return f"{summary['num_leaked']} of {summary['num_queries']} queries leaked ({rule})"
