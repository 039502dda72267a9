"""A small scan on real parts: a tiny trained Llama, its tokenizer, a corpus in Parquet shards and a few queries."""

import dataclasses
import io
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec, UpdateSpec
from tasks import storage
from tasks.actor_pool import PoolOptions
from tasks.demo.train import TrainSettings, train_model
from tasks.options import RunOptions

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "four",
    "five",
    "cat",
    "dog",
    "bird",
    "tree",
    "river",
    "stone",
    "light",
    "dark",
]
LEAK = "the secret answer of question seven is four blue birds and one dark stone by the river"
CONFIG = """
name = "example"
[model]
path = "{model}"
context_tokens = 48
overlap_tokens = 8
[corpus]
path = "{corpus}"
id_column = "id"
[queries]
path = "{queries}"
context = "{{prompt}}"
target = "{{answer}}"
[update]
curvature_rows = 32
[rank]
top_k = 10
"""
TRAIN = TrainSettings(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_epochs=6, max_row_tokens=128
)


def texts(num: int, seed: int = 0) -> list[str]:
    """Rows of 4 to 30 words; some are longer than the context of the tiny model."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 30))) for _ in range(num)]


def corpus_texts(num: int = 96) -> list[str]:
    """Random rows with LEAK planted as row 37."""
    rows = texts(num)
    rows[37] = LEAK
    return rows


def train_checkpoint(folder: Path) -> Path:
    train_model(corpus_texts(), folder, TRAIN, lambda share, line: None)
    return folder


def write_shards(uri: str, rows: Sequence[str | None], num_shards: int, group_rows: int = 8) -> str:
    """Shards of consecutive rows with columns `id` and `text`; returns the pattern that matches them."""
    size = -(-len(rows) // num_shards)
    for shard in range(num_shards):
        part = rows[shard * size : (shard + 1) * size]
        ids = [f"doc-{shard * size + index}" for index in range(len(part))]
        table = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(part, pa.string())})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=group_rows)
        storage.publish_bytes(storage.join(uri, f"shard-{shard:03d}.parquet"), buffer.getvalue())
    return storage.join(uri, "*.parquet")


def write_token_ids(uri: str, model: str) -> CorpusSpec:
    """Eight random rows and LEAK, document "8", as the token ids of a model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [*texts(8), LEAK]
    ids = [tokenizer(row)["input_ids"] for row in rows]
    storage.publish_table(uri, pa.table({"ids": ids, "id": [str(row) for row in range(len(rows))]}))
    return CorpusSpec(path=uri, tokens_column="ids", id_column="id")


def write_queries(uri: str, items: Sequence[tuple[str, str]] | None = None) -> str:
    """Rows of (prompt, answer); by default the leak and three clean items."""
    items = items or [("", LEAK), *(("question: ", text) for text in texts(3, seed=1))]
    table = pa.table({"prompt": [item[0] for item in items], "answer": [item[1] for item in items]})
    storage.publish_table(uri, table)
    return uri


def scan_spec(model: Path | str, corpus: str, queries: str, **update: object) -> ScanSpec:
    return ScanSpec(
        name="example",
        model=ModelSpec(path=str(model), context_tokens=48, overlap_tokens=8),
        corpus=CorpusSpec(path=corpus, id_column="id"),
        queries=QueriesSpec(path=queries, context="{prompt}", target="{answer}"),
        update=UpdateSpec(**{"curvature_rows": 32, **update}),
        rank=RankSpec(top_k=10),
    )


def with_query_ids(spec: ScanSpec, column: str) -> ScanSpec:
    return dataclasses.replace(spec, queries=dataclasses.replace(spec.queries, id_column=column))


def renamed(spec: ScanSpec, name: str) -> ScanSpec:
    return dataclasses.replace(spec, name=name)


def run_options(store: str, num_actors: int = 1, batch_tokens: int = 1024) -> RunOptions:
    pool = PoolOptions(num_actors=num_actors, ray_address="local")
    return RunOptions(store=store, batch_tokens=batch_tokens, pool=pool)
