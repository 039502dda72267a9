"""Two runs side by side: which queries leaked anew, which no longer do, and where a best row changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finf_core.report.visible import visible_line
from tasks.read_report import as_written, read_scan

Verdict = Mapping[str, Any]  # a query's section of report.json


@dataclass(frozen=True)
class Moved:
    query_id: str
    before: str  # document of the best row
    after: str
    ratio_before: float | None
    ratio_after: float | None


@dataclass(frozen=True)
class RunDiff:
    before: str
    after: str
    newly_leaked: list[str]  # query ids; asked in both runs
    no_longer_leaked: list[str]
    moved: list[Moved]  # leaked in both, by another row
    only_before: list[str]
    only_after: list[str]
    only_after_leaked: list[str]  # of these


def diff_runs(before_uri: str, after_uri: str) -> RunDiff:
    """Compare the verdicts of two complete runs, query by query.

    Raises:
        InputError: a run is not complete.
    """
    reports = {uri: read_scan(uri) for uri in (before_uri, after_uri)}
    with as_written(f"{before_uri} or {after_uri}"):
        return _compare(before_uri, after_uri, *(_verdicts(reports[uri]) for uri in (before_uri, after_uri)))


def _compare(before_uri: str, after_uri: str, before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> RunDiff:
    both = [query_id for query_id in after if query_id in before]
    new = [query_id for query_id in after if query_id not in before]
    leaked_in_both = [query_id for query_id in both if before[query_id]["leaked"] and after[query_id]["leaked"]]
    return RunDiff(
        before=before_uri,
        after=after_uri,
        newly_leaked=[query_id for query_id in both if after[query_id]["leaked"] and not before[query_id]["leaked"]],
        no_longer_leaked=[
            query_id for query_id in both if before[query_id]["leaked"] and not after[query_id]["leaked"]
        ],
        moved=[
            _moved(before[query_id], after[query_id])
            for query_id in leaked_in_both
            if _place(before[query_id]) != _place(after[query_id])
        ],
        only_before=[query_id for query_id in before if query_id not in after],
        only_after=new,
        only_after_leaked=[query_id for query_id in new if after[query_id]["leaked"]],
    )


def _verdicts(report: Mapping[str, Any]) -> dict[str, Verdict]:
    return {query["query_id"]: query for query in report["queries"]}


def _place(query: Verdict) -> tuple[str, int] | None:
    return (query["top"][0]["shard"], query["top"][0]["row"]) if query["top"] else None


def _moved(before: Verdict, after: Verdict) -> Moved:
    was, now = (str(query["top"][0]["document_id"]) if query["top"] else "–" for query in (before, after))
    return Moved(after["query_id"], was, now, before["max_mirror_ratio"], after["max_mirror_ratio"])


def describe_diff(diff: RunDiff) -> str:
    """A line for each kind of change, with its queries."""
    moved = [f"{each.query_id} ({each.before} -> {each.after})" for each in diff.moved]
    kinds = {
        "newly leaked": diff.newly_leaked,
        "no longer leaked": diff.no_longer_leaked,
        "leaked by another row": moved,
        "asked only before": diff.only_before,
        "asked only now": [f"{each} (leaked)" if each in diff.only_after_leaked else each for each in diff.only_after],
    }
    return "\n".join(visible_line(f"{kind}: {len(queries):,}{_named(queries)}") for kind, queries in kinds.items())


def _named(queries: list[str], most: int = 20) -> str:
    if not queries:
        return ""
    rest = f", … {len(queries) - most:,} more" if len(queries) > most else ""
    return ": " + ", ".join(queries[:most]) + rest
