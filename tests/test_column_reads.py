"""Over the network only the columns that are scored are fetched: counted in bytes, on a real S3 server."""

import io
import secrets

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cutting_proxy import CuttingProxy
from s3_server import S3Server

from finf_core.spec import CorpusSpec
from tasks import storage
from tasks.base_losses import read_base
from tasks.corpus import CorpusRow, list_shards, plan_units, read_unit

NUM_ROWS, GROUP_ROWS, FAT_BYTES = 256, 32, 20_000
TEXT_SHARE = 0.1  # of the object; what is fetched beside text and ids are the footer and the answers' headers


COLUMNS = [
    {"text_column": "text"},
    {"tokens_column": "input_ids"},
    {"text_column": "meta.body.text"},
    {"text_template": "{text} {meta.body.text}"},
]


def write_shard(uri: str) -> int:
    """A shard whose unused column and unused field hold nearly all of its bytes; returns their number."""
    columns = {
        "id": [f"doc-{row}" for row in range(NUM_ROWS)],
        "image": [secrets.token_bytes(FAT_BYTES) for _ in range(NUM_ROWS)],
        "text": [f"row {row}: {secrets.token_hex(200)}" for row in range(NUM_ROWS)],
        "input_ids": [[row, row + 1, row + 2] for row in range(NUM_ROWS)],
        "meta": [{"image": secrets.token_bytes(FAT_BYTES), "body": {"text": f"row {row}"}} for row in range(NUM_ROWS)],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=GROUP_ROWS)
    storage.publish_bytes(uri, buffer.getvalue())
    return len(buffer.getvalue())


def read_rows(corpus: CorpusSpec) -> list[CorpusRow]:
    return [row for unit in plan_units(list_shards(corpus)) for rows in read_unit(unit, corpus) for row in rows]


@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_a_fat_column_that_nobody_asked_for_is_not_fetched(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, column: dict[str, str]
) -> None:
    size = write_shard(f"{s3_bucket}/corpus/shard.parquet")
    corpus = CorpusSpec(path=f"{s3_bucket}/corpus", id_column="id", **column)
    with CuttingProxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        rows = read_rows(corpus)
        received = proxy.num_bytes["received"]
    assert [row.document_id for row in rows] == [f"doc-{row}" for row in range(NUM_ROWS)]
    assert 1000 < received < TEXT_SHARE * size
    with CuttingProxy(s3_server.endpoint) as proxy:  # and the count is one: what is asked for does come through
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        storage.read_table(f"{s3_bucket}/corpus/shard.parquet")
        assert proxy.num_bytes["received"] > size


def test_a_base_entry_that_is_not_there_is_no_error(s3_bucket: str) -> None:
    assert read_base(f"{s3_bucket}/store/cache/base-0/none.parquet") is None
