"""Is the error rate true? A scan of the demo's corpus with clean queries alone, judged by clean controls.

Functions of the standard library that are not in the corpus stand for queries and for controls, all drawn alike; the
loss is on the whole text. The scan is run once. Its statistics are then dealt out anew many times, a few of them to
queries (`--judged`; so few that one alone can be called at 5 %) and the rest to controls: without a leak every query
called leaked by its q-value is false, so the share of deals in which any is called must not exceed the rate asked for.

`flagged`: for each rate, queries called by their q-value in the scan itself, and the share of deals with any, with its
95 % interval. `copies`: those with the mirror ratio of a copy; the library has near doubles; `near_doubles`: how
many of the queries among them have a best row that is at least 80 % the same text (by difflib).

python -m benchmarks.calibration [--folder F] [--queries N] [--controls N] [--judged N] [--deals N] [--json]
"""

import argparse
import json
import random
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import binomtest

from benchmarks.many_queries import run_strategy
from finf_core.scores import Floats
from finf_core.spec import QueriesSpec, RankSpec, ScanSpec, VerdictSpec
from finf_core.verdict import Statistics, decide
from flows.demo import DemoSize, prepare_demo
from flows.environment import set_environment
from tasks import storage
from tasks.config import load_config
from tasks.demo.corpus import read_demo_rows
from tasks.demo.functions import choose_functions
from tasks.job import ScanJob
from tasks.queries import read_queries

RATES = (0.01, 0.05, 0.1)
NEARLY_SAME = 0.8


def held_back(folder: Path, num: int) -> list[dict[str, str]]:
    """Functions that the corpus does not hold."""
    known = {row.text for row in read_demo_rows(folder / "corpus")}
    others = [each for each in choose_functions(2 * num + len(known), seed=1).functions if each.text not in known]
    return [{"id": each.document_id, "text": each.text} for each in random.Random(2).sample(others, num)]


def clean_scan(folder: Path, num_queries: int, num_controls: int) -> ScanSpec:
    base = load_config(prepare_demo(folder, DemoSize()))
    items = held_back(folder, num_queries + num_controls)
    paths = [str(folder / name) for name in ("clean-queries.parquet", "clean-controls.parquet")]
    for path, part in zip(paths, (items[:num_queries], items[num_queries:]), strict=True):
        storage.publish_table(path, pa.Table.from_pylist(part))
    queries = QueriesSpec(path=paths[0], controls=paths[1], target="{text}", id_column="id")
    return replace(base, queries=queries, rank=RankSpec(by="control_z", top_k=5))


def measure(folder: Path, num_queries: int, num_controls: int, num_judged: int, num_deals: int) -> dict[str, Any]:
    job, seconds = run_strategy(clean_scan(folder, num_queries, num_controls), str(folder / "store"))
    lines = storage.read_table(job.file("queries.parquet")).to_pylist()
    statistic = np.array([line["statistic"] for line in lines], dtype=np.float64)
    ratios = np.array([line["max_mirror_ratio"] for line in lines], dtype=np.float64)
    return {
        "num_queries": num_queries,
        "num_controls": num_controls,
        "copies": {
            "queries": int((ratios[:num_queries] >= 0.5).sum()),
            "controls": int((ratios[num_queries:] >= 0.5).sum()),
        },
        "near_doubles": _num_near_doubles(folder, job),
        "flagged": {
            str(rate): {"called_leaked": _num_called(statistic, num_queries, rate)}
            | _false_share(statistic, num_judged, rate, num_deals)
            for rate in RATES
        },
        "seconds": sum(seconds.values()),
    }


def _false_share(statistic: Floats, num_judged: int, rate: float, num_deals: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    with_any = sum(_num_called(rng.permutation(statistic), num_judged, rate) > 0 for _ in range(num_deals))
    interval = binomtest(with_any, num_deals).proportion_ci(0.95)
    return {"share_of_deals_with_any": with_any / num_deals, "interval": [interval.low, interval.high]}


def _num_near_doubles(folder: Path, job: ScanJob) -> int:
    """Of the queries that reach the mirror ratio of a copy."""
    asked = {query.query_id: query.target for query in read_queries(job.queries_uri) if not query.is_control}
    texts = {row.document_id: row.text for row in read_demo_rows(folder / "corpus")}
    best: dict[str, dict[str, Any]] = {}
    for line in storage.read_table(job.file("top.parquet")).to_pylist():
        if line["query_id"] in asked and line["mirror_ratio"] >= job.spec.verdict.copied_from:
            best[line["query_id"]] = max(best.get(line["query_id"], line), line, key=lambda each: each["mirror_ratio"])
    return sum(
        SequenceMatcher(None, asked[query_id], texts[line["document_id"]], autojunk=False).ratio() >= NEARLY_SAME
        for query_id, line in best.items()
    )


def _num_called(statistic: Floats, num_queries: int, rate: float) -> int:
    """By q-value alone."""
    everything = Statistics(statistic, *np.zeros((3, len(statistic))))
    found, _ = decide(everything.of(slice(num_queries)), everything.of(slice(num_queries, None)), VerdictSpec(fdr=rate))
    return sum(found.leaked_Q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs/calibration"))
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--controls", type=int, default=500)
    parser.add_argument("--judged", type=int, default=20)
    parser.add_argument("--deals", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_environment()
    torch.set_num_threads(2)
    found = measure(arguments.folder, arguments.queries, arguments.controls, arguments.judged, arguments.deals)
    print(json.dumps(found, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
