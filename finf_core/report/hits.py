"""Which rows a leaked query leads to: what the report counts by place, and what `finf purify` removes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]  # of a query's `top` in report.json

RULE = (
    "of each leaked query, the rows that reach the mirror ratio or the shared words of a copy; if none does, "
    "its best row"
)


class Hits(NamedTuple):
    rows: Sequence[Row]
    reason: str


def hits_of(query: Mapping[str, Any], verdict: Mapping[str, Any]) -> Hits:
    """By `RULE`; none for a query that did not leak.

    Args:
        query, verdict: parts of report.json.
    """
    if not query["leaked"]:
        return Hits([], "")
    copies = [row for row in query["top"] if is_copy(row, verdict)]
    return Hits(copies, "copy") if copies else Hits(query["top"][:1], "best row of a leaked query")


def is_copy(row: Row, verdict: Mapping[str, Any]) -> bool:
    limits = {"mirror_ratio": verdict["threshold"], "shared": verdict["shared_from"]}
    return any(row[name] is not None and limit is not None and row[name] >= limit for name, limit in limits.items())


def count_places(
    queries: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], key: str
) -> Iterator[dict[str, Any]]:
    """Places (`key` of a row: shard, source, date) with their hits and the queries that these belong to; most first."""
    hits = {
        (row[key], row["shard"], row["row"], query["query_id"])
        for query in queries
        for row in hits_of(query, verdict).rows
        if row[key] is not None
    }
    num_hits = Counter(place for place, *_ in {each[:3] for each in hits})
    num_queries = Counter(place for place, _ in {(each[0], each[3]) for each in hits})
    for place, count in sorted(num_hits.items(), key=lambda item: (-item[1], item[0])):
        yield {"name": place, "num_hits": count, "num_queries": num_queries[place]}
