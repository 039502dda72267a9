"""Documents that are stored as several rows: where one row is removed, the others of the same document id."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from finf_core.columns import take_column
from finf_core.errors import InputError
from tasks import storage
from tasks.corpus import Shard
from tasks.job import ScanJob
from tasks.python_values import label_values

REASON = "another row of that document"


def rest_of_documents(job: ScanJob, shards: Sequence[Shard], removed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for every further row of the documents that these lines name, for each of their queries.

    Only the column of ids is read, one row group at a time. A row without an id is a document of its own.

    Raises:
        InputError: the corpus was scanned without ids.
    """
    id_column = job.spec.corpus.id_column
    if id_column is None:
        raise InputError("whole documents are known by corpus.id_column, and the scan had none")
    lines_of: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)  # document -> query -> its first line
    for line in removed:
        if line["document_id"]:
            lines_of[line["document_id"]].setdefault(line["query_id"], line)
    known = {(line["shard"], line["row"], line["query_id"]) for line in removed}
    unknown: dict[str, Any] = {
        "rank": None,
        "mirror_ratio": None,
        "shared": None,
        "text_excerpt": None,
        "reason": REASON,
    }
    return [
        line | unknown | {"shard": shard.uri, "row": row}
        for shard in (shards if lines_of else [])
        for row, name in enumerate(_ids(shard, id_column))
        for line in lines_of.get(name, {}).values()
        if (shard.uri, row, line["query_id"]) not in known
    ]


def _ids(shard: Shard, id_column: str) -> Iterator[str]:
    with storage.open_parquet(shard.uri) as file:
        for group in range(len(shard.group_rows)):
            table = storage.read_row_group(file, group, [id_column], shard.uri)
            yield from (each or "" for each in label_values(take_column(table, id_column)))
