"""A corpus of random words, a tiny model that has read some of it, and queries: for measuring all around them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, RankSpec, ScanSpec, UpdateSpec
from tasks.actor_pool import ActorPool
from tasks.check_model import check_model
from tasks.check_precision import check_precision
from tasks.choose_strategy import choose_strategy_for
from tasks.count_words import count_corpus_words
from tasks.demo.train import TrainSettings, train_model
from tasks.fit_curvature import fit_curvature
from tasks.job import ScanJob
from tasks.options import RunOptions
from tasks.progress import Meter
from tasks.resolve_inputs import resolve_inputs
from tasks.settle import settle
from tasks.solve_updates import solve_updates

WORDS = [
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "tree",
    "river",
    "stone",
    "light",
    "dark",
    "north",
    "south",
    "late",
]
TINY = TrainSettings(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_epochs=4, max_row_tokens=128
)


@dataclass(frozen=True)
class SmallScan:
    job: ScanJob
    num_rows: int

    def prepare(self, pool: ActorPool) -> ScanJob:
        """All stages before the rows are scored."""
        for stage in (check_model, fit_curvature, count_corpus_words, check_precision, choose_strategy_for):
            stage(self.job, pool)
        job = settle(self.job)
        solve_updates(job, pool, Meter())
        return job


def random_rows(num_rows: int, num_words: tuple[int, int], seed: int = 0) -> Iterator[str]:
    draw = random.Random(seed)
    for _ in range(num_rows):
        yield " ".join(draw.choices(WORDS, k=draw.randint(*num_words)))


def write_corpus(folder: Path, num_rows: int, num_shards: int, num_words: tuple[int, int]) -> Path:
    """Shards of equally many rows, with an id and a text each."""
    folder.mkdir(parents=True)
    rows = random_rows(num_rows, num_words)
    size = num_rows // num_shards
    for shard in range(num_shards):
        texts = [next(rows) for _ in range(size)]
        ids = [str(shard * size + index) for index in range(size)]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"shard-{shard:05d}.parquet")
    return folder


def write_queries(path: Path, num_queries: int) -> Path:
    """The first is the first row of the corpus, the others are new."""
    texts = [next(random_rows(1, (4, 30))), *random_rows(num_queries - 1, (8, 16), seed=1)]
    pq.write_table(pa.table({"answer": texts}), path)
    return path


def train_tiny(folder: Path) -> Path:
    train_model(list(random_rows(500, (4, 30))), folder, TINY, lambda share, line: None)
    return folder


def small_spec(model: Path, corpus: Path, queries: Path, top_k: int = 20) -> ScanSpec:
    return ScanSpec(
        name="small",
        model=ModelSpec(path=str(model), context_tokens=48, overlap_tokens=8),
        corpus=CorpusSpec(path=str(corpus), id_column="id"),
        queries=QueriesSpec(path=str(queries), target="{answer}"),
        update=UpdateSpec(curvature_rows=64),
        rank=RankSpec(top_k=top_k),
    )


def small_scan(folder: Path, num_rows: int, num_shards: int) -> SmallScan:
    """Four queries; every row is listed for each of them."""
    corpus = write_corpus(folder / "corpus", num_rows, num_shards, (4, 30))
    queries = write_queries(folder / "queries.parquet", 4)
    spec = small_spec(train_tiny(folder / "model"), corpus, queries, top_k=num_rows)
    return SmallScan(resolve_inputs(spec, RunOptions(store=str(folder / "store"), batch_tokens=512)), num_rows)
