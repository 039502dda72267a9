"""What the store is asked for, and what it holds: requests of a unit, listings, results and their merge. Measured.

Against a real S3 server on loopback (that of the tests): its own latency is not that of a cloud, but the requests are
those of finf, and so are the seconds and bytes that finf's side of a listing takes.
"""

import os
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.ratio_histogram import NUM_BINS
from finf_core.spec import CorpusSpec, RankSpec
from finf_core.top_k import CANDIDATES
from tasks import storage
from tasks.corpus import list_shards, plan_units, read_unit
from tasks.merge_units import merge_units
from tasks.unit_result import UnitReceipt, publish_unit

NUM_COUNTED = 64  # shards of one unit, for the requests
NUM_LISTED = 20_000
WRITERS = 8
BUCKET = "fleet"


def measure_requests() -> dict[str, dict[str, float]]:
    """Requests of each kind, of one unit (or, for LIST, of a listing), as a proxy before the server counts them."""
    with _server() as server:
        from fault_proxy import FaultProxy  # the tests' own

        corpus = CorpusSpec(path=f"s3://{BUCKET}/corpus", id_column="id")
        for number in range(NUM_COUNTED):
            storage.publish_bytes(f"s3://{BUCKET}/corpus/{number:06d}.parquet", _small_shard())
        with FaultProxy(server.endpoint) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            counted: dict[str, dict[str, float]] = {}
            seen = 0

            def note(what: str, times: int) -> None:
                nonlocal seen
                methods = Counter(method for method, _ in proxy.heard[seen:])
                counted[what] = {method: number / times for method, number in sorted(methods.items())}
                seen = len(proxy.heard)

            units = list(plan_units(list_shards(corpus)))
            note("resolve, a shard", NUM_COUNTED)
            for unit in units:
                list(read_unit(unit, corpus))
            note("read, a unit", NUM_COUNTED)
            uris = [f"s3://{BUCKET}/scores/{number:06d}.parquet" for number in range(NUM_COUNTED)]
            for uri in uris:
                storage.publish_bytes(uri, b"result")
            note("publish, a unit", NUM_COUNTED)
            storage.list_names(f"s3://{BUCKET}/scores")
            note("look, a folder", 1)
            for number in range(NUM_COUNTED):
                storage.read_table(f"s3://{BUCKET}/corpus/{number:06d}.parquet", ["text"])
            note("merge, a unit", NUM_COUNTED)
    return counted


def measure_listing() -> dict[str, float]:
    """Seconds and bytes for each object of `storage.list_names`, of a folder of `NUM_LISTED`."""
    with _server() as server:
        client = server.client()
        with ThreadPoolExecutor(WRITERS) as writers:
            keys = [f"scores/{number:064x}.parquet" for number in range(NUM_LISTED)]
            list(writers.map(lambda key: client.put_object(Bucket=BUCKET, Key=key, Body=b"x"), keys))
        folder = f"s3://{BUCKET}/scores"
        storage.list_names(f"s3://{BUCKET}/nothing")  # imports
        started, cpu_started = time.perf_counter(), time.process_time()
        names = storage.list_names(folder)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        del names
        tracemalloc.start()
        names = storage.list_names(folder)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(names) == NUM_LISTED
    return {
        "num_objects": NUM_LISTED,
        "seconds_per_million": 1e6 * seconds / NUM_LISTED,
        "cpu_seconds_per_million": 1e6 * cpu_seconds / NUM_LISTED,
        "kept_bytes_per_object": kept / NUM_LISTED,
        "peak_bytes_per_object": peak / NUM_LISTED,
    }


def measure_results(num_queries: int, num_rows: int, kept_rows: int, num_units: int) -> dict[str, float]:
    """Bytes of a unit's result in a first pass that keeps so many rows of each query, and seconds of its merge."""
    rank = RankSpec(top_k=kept_rows, mirror_k=-(-kept_rows // 4))
    num_kept = min(num_rows, rank.top_k + rank.num_by_ratio)
    query_ids = [f"{number:064x}" for number in range(num_queries)]
    counts_QK = np.random.default_rng(0).poisson(3, (num_queries, NUM_BINS + 2))
    with tempfile.TemporaryDirectory(prefix="finf-fleet-") as folder:
        uris = [str(Path(folder, f"{number}.parquet")) for number in range(num_units)]
        for number, uri in enumerate(uris):
            table = _candidates(query_ids, num_rows, num_kept, number)
            publish_unit(uri, query_ids, table, counts_QK, UnitReceipt(num_rows, num_rows * 1000, num_rows * 999, 1.0))
        num_bytes = sum(Path(uri).stat().st_size for uri in uris) / num_units
        started, cpu_started = time.perf_counter(), time.process_time()
        merge_units(uris, num_queries, rank, 10)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return {
        "queries": num_queries,
        "rows": num_rows,
        "kept_rows": kept_rows,
        "units": num_units,
        "bytes_per_unit": num_bytes,
        "merge_ms_per_unit": 1000 * seconds / num_units,
        "merge_cpu_ms_per_unit": 1000 * cpu_seconds / num_units,
    }


def _candidates(query_ids: list[str], num_rows: int, num_kept: int, number: int) -> pa.Table:
    """As a first pass leaves them: without excerpts."""
    draw = np.random.default_rng(number)
    num = len(query_ids) * num_kept
    rows = np.concatenate([draw.permutation(num_rows)[:num_kept] for _ in query_ids])
    base = draw.normal(3000, 100, num_rows)
    numbers: dict[str, Any] = {name: draw.normal(0, 0.1, num) for name in ("score", "mirror_ratio", "row_ratio")}
    numbers |= {name: draw.normal(0, 0.1, num) for name in ("control_z", "others_mean", "others_spread")}
    columns = numbers | {
        "query_id": np.repeat(query_ids, num_kept),
        "shard": [f"s3://a-bucket/corpora/a-corpus/part-{number:08d}.parquet"] * num,
        "row": rows,
        "document_id": [str(row) for row in rows],
        "shared": np.zeros(num),
        "bm25": np.zeros(num),
        "base_nats": base[rows],
        "num_targets": np.full(num, 999),
        "text_excerpt": pa.nulls(num, pa.string()),
    }
    return pa.table(columns, schema=CANDIDATES)


def _small_shard() -> bytes:
    buffer = pa.BufferOutputStream()
    texts = [f"text of row {row}" for row in range(128)]
    pq.write_table(pa.table({"id": [str(row) for row in range(128)], "text": texts}), buffer)
    return bytes(buffer.getvalue().to_pybytes())


@contextmanager
def _server() -> Iterator[Any]:
    """A server of our own, and the environment in which finf finds it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from s3_server import running_s3_server  # the tests' own

    with running_s3_server() as server:
        os.environ |= server.environment | {"NO_PROXY": "127.0.0.1"}
        server.client().create_bucket(Bucket=BUCKET)
        yield server
