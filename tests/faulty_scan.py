"""A scan on a real S3 server behind a proxy that does faults, without Prefect: what scores, scored again and again."""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import scan_example
from fault_proxy import Fault, FaultProxy
from faults import Result, read_result
from s3_server import S3Server

from benchmarks.actor_processes import actor_processes
from finf_core.spec import RankSpec
from tasks import storage
from tasks.actor_pool import ActorPool, PoolOptions
from tasks.aggregate import aggregate
from tasks.check_model import check_model
from tasks.check_precision import check_precision
from tasks.choose_strategy import choose_strategy_for
from tasks.count_words import count_corpus_words
from tasks.fit_curvature import fit_curvature
from tasks.job import ScanJob
from tasks.patience import patient
from tasks.progress import Meter
from tasks.resolve_inputs import resolve_inputs
from tasks.score_shards import score_shards
from tasks.settle import settle
from tasks.shard_scorer import ShardScorer
from tasks.solve_updates import solve_updates

POISON = "FINF_TEST_POISON"
NUM_ROWS = 192
NUM_SHARDS = 24
OPTIONS = PoolOptions(num_actors=2, max_storage_seconds=120)


@dataclass
class FaultyScan:
    job: ScanJob
    proxy: FaultProxy
    server: S3Server
    undisturbed: Result | None = None

    def prepare(self, pool: ActorPool) -> None:
        """All that comes before scoring, and one pass that nobody disturbs."""
        meter = Meter()
        for stage in (check_model, fit_curvature, count_corpus_words, check_precision, choose_strategy_for):
            stage(self.job, pool)
        self.job = settle(self.job)
        solve_updates(self.job, pool, meter)
        self.undisturbed = self.score(pool)

    def score(self, pool: ActorPool, tell: Callable[[str], None] = lambda line: None) -> Result:
        """Score every row anew and gather the result."""
        self.forget_scores()
        with patient(120, tell):
            score_shards(self.job, pool, Meter(), tell)
            aggregate(self.job)
            return read_result(self.job.run_uri)

    def forget_scores(self) -> None:
        """Past the proxy: units, their base losses, and what was made of them."""
        bucket = self.job.store.removeprefix("s3://").partition("/")[0]
        with closing(self.server.client()) as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for key in [item["Key"] for item in page.get("Contents", [])]:
                    made = ("cache/scores-", "cache/base-", "cache/sets-", "quarantine/")
                    ends = ("top.parquet", "queries.parquet", "totals.json")
                    if any(part in key for part in made) or key.endswith(ends):
                        client.delete_object(Bucket=bucket, Key=key)


def make_scan(bucket: str, server: S3Server, proxy: FaultProxy, model: Path) -> FaultyScan:
    corpus = scan_example.write_shards(
        storage.join(bucket, "corpus"), scan_example.corpus_texts(NUM_ROWS), NUM_SHARDS, group_rows=4
    )
    queries = scan_example.write_queries(storage.join(bucket, "queries.parquet"))
    spec = replace(scan_example.scan_spec(model, corpus, queries), rank=RankSpec(top_k=NUM_ROWS))
    job = resolve_inputs(spec, scan_example.run_options(storage.join(bucket, "store"), batch_tokens=64))
    return FaultyScan(job, proxy, server)


class KillAt:
    """A fault that kills actors when the first request of a kind arrives; none of them is answered."""

    def __init__(self, method: str, part: str, share: float) -> None:
        self.method, self.part, self.share = method, part, share
        self.num_killed = 0
        self._once = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        if method == self.method and self.part in path and self._once.acquire(blocking=False):
            processes = actor_processes()
            for process in processes[: max(1, round(self.share * len(processes)))]:
                process.kill()
                self.num_killed += 1
            return Fault.REFUSED
        return None


class PoisonedScorer(ShardScorer):
    """Dies of every unit of one shard, as long as there is a file of the name that POISON holds."""

    def score_share(self, share):
        if share.unit.shard.endswith("shard-003.parquet") and Path(os.environ[POISON]).exists():
            os.kill(os.getpid(), 9)
        return super().score_share(share)
