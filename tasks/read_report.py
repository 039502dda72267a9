"""Reading a finished run."""

import json
from typing import Any

from finf_core.errors import InputError
from finf_core.report.visible import visible_line
from tasks import storage
from tasks.publish_report import RENDERED


def read_report(run_uri: str) -> dict[str, Any]:
    """report.json of a complete run.

    Raises:
        InputError: there is no run, or it is not complete.
    """
    uri = storage.join(run_uri, "report.json")
    if not storage.exists(uri):
        raise InputError(f"{run_uri}: no complete run here (no report.json); `finf status` tells how far it is")
    report: dict[str, Any] = json.loads(storage.read_bytes(uri))
    return report


def render_again(run_uri: str, report: dict[str, Any]) -> None:
    """All that is made of report.json and nothing else."""
    for name, render in RENDERED.items():
        storage.publish_bytes(storage.join(run_uri, name), render(report).encode())


def report_summary(run_uri: str, report: dict[str, Any]) -> str:
    """The outcome in a few lines for the terminal."""
    summary, verdict = report["summary"], report["verdict"]
    lines = [
        f"{summary['num_leaked']} of {summary['num_queries']} queries leaked ({verdict['rule']}); "
        f"{summary['num_rows']:,} rows, {summary['num_tokens']:,} tokens in {summary['seconds']:.1f} s",
    ]
    if summary["num_skipped_rows"]:
        lines.append(f"{summary['num_skipped_rows']:,} rows could not be scored; the report names them")
    lines.append(f"report: {storage.join(run_uri, 'report.html')}")
    return "\n".join(map(visible_line, lines))
