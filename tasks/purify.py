"""The corpus without the rows that leaked: new shards of the same schema and order, and a record of what is missing.

<out>/…                 every shard under its own name; one without such rows is copied byte by byte
<out>/removed.parquet   each removed row with the queries that it is removed for
<out>/manifest.json     the run, the rule, rows of each shard before and after; appears last and means complete

Which rows: `finf_core.report.hits`. With `whole_documents`, every other row of their documents too
(`tasks.whole_documents`).
"""

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.errors import InputError
from finf_core.report.hits import RULE, hits_of
from finf_core.report.row_links import common_folder
from finf_core.report.visible import visible_line
from tasks import storage
from tasks.corpus import Shard, shards_from_table
from tasks.job import ScanJob
from tasks.read_report import as_written, read_scan
from tasks.resolve_inputs import read_job
from tasks.whole_documents import rest_of_documents

MANIFEST, REMOVED = "manifest.json", "removed.parquet"
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("document_id", pa.string()),
        ("query_id", pa.string()),
        ("rank", pa.int64()),
        ("mirror_ratio", pa.float64()),
        ("shared", pa.float64()),
        ("q_value", pa.float64()),
        ("reason", pa.string()),
        ("text_excerpt", pa.string()),
    ]
)

Line = dict[str, Any]  # of removed.parquet


@dataclass(frozen=True)
class Purified:
    run: str
    out: str | None  # None: nothing was written
    num_rows: int
    num_removed: int  # rows
    num_queries: int  # that rows are removed for
    removed: list[Line] = field(repr=False)  # a row may be removed for several queries
    shards: dict[str, dict[str, int]] = field(repr=False)  # new name -> rows before and after
    rule: str = RULE


def purify(run_uri: str, out: str | None, whole_documents: bool = False) -> Purified:
    """Find the rows to remove and, with `out`, write the corpus without them.

    Raises:
        InputError: the run is not complete, or `out` holds something; a shard is no longer what was scanned; whole
            documents, and the scan had no ids.
    """
    job, report = read_job(run_uri), read_scan(run_uri)
    shards = list(shards_from_table(storage.read_table(job.shards_uri)))
    with as_written(run_uri):
        removed = list(lines_to_remove(report, [shard.uri for shard in shards]))
    if whole_documents:
        _check_unchanged(shards)
        removed += rest_of_documents(job, shards, removed)
    removed.sort(key=lambda line: (line["shard"], line["row"], line["query_id"]))
    rows_of: dict[str, set[int]] = defaultdict(set)
    for line in removed:
        rows_of[line["shard"]].add(line["row"])
    names = new_names([shard.uri for shard in shards])
    counts = {
        names[shard.uri]: {"before": shard.num_rows, "after": shard.num_rows - len(rows_of[shard.uri])}
        for shard in shards
    }
    found = Purified(
        run=run_uri,
        out=out,
        num_rows=sum(shard.num_rows for shard in shards),
        num_removed=sum(map(len, rows_of.values())),
        num_queries=len({line["query_id"] for line in removed}),
        removed=removed,
        shards=counts,
        rule=RULE + ("; and every other row of their documents" if whole_documents else ""),
    )
    if out is not None:
        _write(found, out, job, shards, names, rows_of)
    return found


def lines_to_remove(report: Mapping[str, Any], uris: Sequence[str] | None = None) -> Iterator[Line]:
    """Lines of removed.parquet, from a run's report; with `uris`, each must be of one of these shards."""
    known = None if uris is None else set(uris)
    for query in report["queries"]:
        hits = hits_of(query, report["verdict"])
        for row in hits.rows:
            if known is not None and row["shard"] not in known:
                raise ValueError(f"{row['shard']} is no shard of the run")
            line = {**row, "query_id": query["query_id"], "q_value": query["q_value"], "reason": hits.reason}
            yield {name: line[name] for name in SCHEMA.names}


def new_names(uris: Sequence[str]) -> dict[str, str]:
    """Each shard's place below the folder that they all lie in.

    Raises:
        InputError: a name would leave the new folder, or is that of the record.
    """
    folder = common_folder(uris)
    names = {uri: uri.removeprefix(folder) for uri in uris}
    for uri, name in names.items():
        if not storage.NOT_A_NAME.isdisjoint(name.split("/")) or name in (MANIFEST, REMOVED):
            raise InputError(f"{uri}: cannot be written again under its own name; rename the shard and scan again")
    return names


def _write(
    found: Purified,
    out: str,
    job: ScanJob,
    shards: Sequence[Shard],
    names: Mapping[str, str],
    rows_of: Mapping[str, set[int]],
) -> None:
    if storage.list_names(out):
        raise InputError(f"{out}: holds something already; name an empty folder")
    _check_unchanged(shards)
    for shard in shards:
        data = storage.read_bytes(shard.uri)
        rows = rows_of.get(shard.uri)
        storage.publish_bytes(storage.join(out, names[shard.uri]), _without(data, rows) if rows else data)
    storage.publish_table(storage.join(out, REMOVED), pa.Table.from_pylist(found.removed, SCHEMA))
    manifest = {key: value for key, value in asdict(found).items() if key != "removed"}
    manifest |= {"run_fingerprint": job.fingerprint, "corpus_digest": job.shards_digest}
    storage.publish_bytes(storage.join(out, MANIFEST), json.dumps(manifest, indent=2).encode())


def _check_unchanged(shards: Sequence[Shard]) -> None:
    for shard in shards:
        now = storage.stat_object(shard.uri)
        if (now.size_bytes, now.etag) != (shard.size_bytes, shard.etag):
            raise InputError(
                f"{shard.uri}: is no longer what was scanned; scan again before rows are removed by number"
            )


def _without(data: bytes, rows: set[int]) -> bytes:
    """A Parquet file without these rows: same schema, metadata, row groups and compression."""
    file = pq.ParquetFile(io.BytesIO(data))
    file.read_row_group(0)  # a damaged footer is an error here, and the end of the process in the next line
    codec = file.metadata.row_group(0).column(0).compression
    sink, first_row = io.BytesIO(), 0
    with pq.ParquetWriter(sink, file.schema_arrow, compression="NONE" if codec == "UNCOMPRESSED" else codec) as writer:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group)
            stays = np.array([first_row + index not in rows for index in range(len(table))], dtype=np.bool_)
            first_row += len(table)
            if stays.any():
                kept = table.filter(pa.array(stays))
                writer.write_table(kept, row_group_size=len(kept))
    return sink.getvalue()


def describe_purified(found: Purified) -> str:
    """The rows, and what was or would be written."""
    lines = [
        f"{line['shard']} row {line['row']:,} ({line['document_id']}): {line['reason']}, query {line['query_id']}"
        for line in found.removed
    ]
    will = "would remove" if found.out is None else "removed"
    lines.append(
        f"{will} {found.num_removed:,} of {found.num_rows:,} rows, for {found.num_queries:,} queries ({found.rule})"
    )
    lines.append("nothing was written; name a folder with --out" if found.out is None else f"corpus: {found.out}")
    return "\n".join(map(visible_line, lines))
