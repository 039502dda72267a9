"""The queries of a report: each with its verdict, its rows, and what was explained of them."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from finf_core.report.hits import count_places, is_copy
from tasks import storage
from tasks.corpus import shards_from_table
from tasks.items import ItemReader, picture_of
from tasks.job import ScanJob
from tasks.queries import Query, query_excerpt, read_queries
from tasks.shown_rows import shown_bundles

JUDGED = ("max_mirror_ratio", "max_shared", "statistic", "p_value", "q_value", "loss_q_value", "leaked", "outcome")
MOST_PLACES = 50
MOST_PICTURES = 12  # of a group of items
MOST_EXCERPTS = 20_000  # of listed rows; where there are more, only a query's first row and those shown have one

Section = dict[str, Any]


def query_sections(
    job: ScanJob, verdicts: Sequence[Mapping[str, Any]], verdict_section: Mapping[str, Any]
) -> list[Section]:
    """One for each query that is judged, in their order; of its rows copies first, then those that are shown."""
    rows_of, reader = rows_of_queries(job), ItemReader(job.spec.corpus)
    queries = read_queries(job.queries_uri)
    excerpts = {query.query_id: query_excerpt(query) for query in queries}
    pictures_of = {query.query_id: list(_pictures(query, reader)) for query in queries}
    return [
        {
            "query_id": verdict["query_id"],
            "text_excerpt": excerpts[verdict["query_id"]].text,
            "context_characters": excerpts[verdict["query_id"]].context_characters,
            "pictures": pictures_of[verdict["query_id"]],
            "num_targets": verdict["num_targets"],
            "base_nats_per_target": verdict["base_nats"] / verdict["num_targets"],
            "moved_nats_per_target": verdict["moved_nats"],
            **{key: verdict[key] for key in JUDGED},
            "top": sorted(
                rows_of.get(verdict["query_id"], []),
                key=lambda row: (not is_copy(row, verdict_section), row["evidence"] is None, row["rank"]),
            ),
        }
        for verdict in verdicts
    ]


def asked_queries(job: ScanJob) -> Iterator[Section]:
    """Each query with what is seen of it, and what it is to the model: for a gallery."""
    reader = ItemReader(job.spec.corpus)
    judged = {line["query_id"]: line for line in storage.read_table(job.file("queries.parquet")).to_pylist()}
    for query in read_queries(job.queries_uri):
        excerpt, numbers = query_excerpt(query), judged[query.query_id]
        yield {
            "title": query.query_id,
            "text": excerpt.text,
            "context_characters": excerpt.context_characters,
            "pictures": list(_pictures(query, reader)),
            "num_items": len(query.items),
            "facts": {
                "base loss": numbers["base_nats"] / numbers["num_targets"],
                "unlearned by": numbers["moved_nats"],
            },
        }


def _pictures(query: Query, reader: ItemReader) -> Iterator[str]:
    for packed in query.items[:MOST_PICTURES]:
        if (picture := _base64(picture_of(reader.unpack(packed)))) is not None:
            yield picture


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def places(job: ScanJob, sections: Sequence[Section], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Where the hits lie, by shard, source and date; those that are not shown count by shard only."""
    found: dict[str, Any] = {}
    for key in ("shard", "source", "date"):
        counted = count_places(sections, verdict, key)
        found[key] = [place | {"num_rows": None} for place in islice(counted, MOST_PLACES)]
        found[f"{key}_more"] = sum(1 for _ in counted)
    by_name = {place["name"]: place for place in found["shard"]}
    for shard in shards_from_table(storage.read_table(job.shards_uri)):
        if shard.uri in by_name:
            by_name[shard.uri]["num_rows"] = shard.num_rows
    return found


def rows_of_queries(job: ScanJob) -> dict[str, list[Section]]:
    """query_id -> its rows, best first, with the evidence of those that are shown."""
    evidence = {key: each for table in shown_bundles(job).results() for key, each in _evidence(table)}
    rows_of: dict[str, list[Section]] = {}
    top = storage.read_table(job.file("top.parquet"))
    for row in top.to_pylist():
        query_id = row.pop("query_id")
        shown = evidence.get((query_id, row["shard"], row["row"]), {})
        row |= {"source": shown.pop("source", None), "date": shown.pop("date", None), "evidence": shown or None}
        if not shown and row["rank"] > 1 and len(top) > MOST_EXCERPTS:
            row["text_excerpt"] = None
        rows_of.setdefault(query_id, []).append(row)
    return rows_of


def evidence_of_rows(job: ScanJob) -> dict[tuple[str, int], Section]:
    """Shard and row -> the evidence of a row that is shown, whichever query it was explained for."""
    found = (each for table in shown_bundles(job).results() for each in _evidence(table))
    return {(shard, row): evidence for (_, shard, row), evidence in found}


def _evidence(table: pa.Table) -> Iterator[tuple[tuple[str, str, int], Section]]:
    for line in table.to_pylist():
        key = tuple(line.pop(name) for name in ("query_id", "shard", "row"))
        ratios = [None if ratio is None else round(ratio, 3) for ratio in line["token_ratios"]]
        yield key, line | {"token_ratios": ratios, "picture": _base64(line["picture"])}
