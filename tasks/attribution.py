"""Proponents and opponents of each query, as the sections of a gallery (`finf_core.report.gallery`)."""

from collections.abc import Mapping
from typing import Any

from tasks.job import ScanJob
from tasks.report_queries import Section, asked_queries, rows_of_queries

PROPONENTS = "Unlearning the query hurts these rows most: the model leans on what they share with it."
OPPONENTS = "Unlearning the query helps these rows: they pull the model the other way."

MARKS = ("text", "spans", "token_ends", "token_ratios")  # what `finf_core.report.marked_text.row_markup` reads


def attribution(job: ScanJob) -> dict[str, Any]:
    """The parts of the report that are the answer: a group for each query, best rows first, opponents from the end."""
    rows_of, by = rows_of_queries(job), job.spec.rank.by
    groups = [_group(query, rows_of.get(query["title"], []), job) for query in asked_queries(job)]
    noun = "query" if len(groups) == 1 else "queries"
    return {
        "headline": f"Proponents and opponents of {len(groups):,} {noun}",
        "note": f"Rows are ordered by {by}: nats per target that a row loses for each nat per target that the query "
        "loses, when the model unlearns the query by a small step.",
        "groups": groups,
    }


def _group(query: Section, rows: list[Section], job: ScanJob) -> Section:
    rank = job.spec.rank
    scored = [row for row in rows if row[rank.by] is not None]
    proponents = [row for row in scored if row[rank.by] > 0][: rank.top_k]
    opponents = [row for row in reversed(scored) if row[rank.by] < 0][: rank.opponents_k]
    lists = [("Proponents", PROPONENTS, proponents), ("Opponents", OPPONENTS, opponents)]
    return query | {
        "lists": [
            {"title": title, "note": note, "cards": [card(row, rank.by) for row in found]}
            for title, note, found in lists
            if found
        ]
    }


def card(row: Mapping[str, Any], by: str) -> Section:
    """A row of top.parquet with its evidence, as a card of the gallery."""
    evidence = row["evidence"] or {}
    return {
        "title": row["document_id"],
        "shard": row["shard"],
        "row": row["row"],
        "source": row["source"],
        "value": row[by],
        "facts": {
            "score": row["score"],
            "mirror ratio": row["mirror_ratio"],
            "base loss": row["base_nats"] / row["num_targets"],
        },
        "text": evidence.get("text") or row["text_excerpt"],
        "picture": evidence.get("picture"),
        "evidence": {key: evidence[key] for key in MARKS} if evidence.get("token_ends") else None,
    }
