"""Is the error rate true? A scan of the demo's corpus with clean queries alone, judged by clean controls.

Functions of the standard library that are not in the corpus stand for queries and for controls, all drawn alike; the
loss is on the whole text. The scan is run once. Its statistics are then dealt out anew many times, so many of them to
queries and the rest to controls: without a leak every query called leaked by its q-value is false, so the share of
deals in which any is called must not exceed the rate asked for.

`flagged`: for each rate, queries called by their q-value in the scan itself, and the share of deals with any, with its
95 % interval. `copies`: queries with the mirror ratio of a copy; the library has near doubles, and those are real.

python -m benchmarks.calibration [--folder F] [--queries N] [--controls N] [--deals N] [--json]
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import binomtest

from benchmarks.many_queries import run_strategy
from finf_core.scores import Floats
from finf_core.spec import QueriesSpec, RankSpec, ScanSpec, VerdictSpec
from finf_core.verdict import decide
from flows.demo import DemoSize, prepare_demo
from flows.environment import set_environment
from tasks import storage
from tasks.config import load_config
from tasks.demo.corpus import read_demo_rows
from tasks.demo.functions import choose_functions

RATES = (0.01, 0.05, 0.1)


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


def measure(folder: Path, num_queries: int, num_controls: int, num_deals: int) -> dict[str, Any]:
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
        "flagged": {str(rate): _flagged(statistic, num_queries, rate, num_deals) for rate in RATES},
        "seconds": sum(seconds.values()),
    }


def _flagged(statistic: Floats, num_queries: int, rate: float, num_deals: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    with_any = sum(_num_called(rng.permutation(statistic), num_queries, rate) > 0 for _ in range(num_deals))
    interval = binomtest(with_any, num_deals).proportion_ci(0.95)
    return {
        "called_leaked": _num_called(statistic, num_queries, rate),
        "share_of_deals_with_any": with_any / num_deals,
        "interval": [interval.low, interval.high],
    }


def _num_called(statistic: Floats, num_queries: int, rate: float) -> int:
    """By q-value alone."""
    none = np.zeros(len(statistic))
    parts = (statistic[:num_queries], none[:num_queries], statistic[num_queries:], none[num_queries:])
    return sum(decide(*parts, VerdictSpec(fdr=rate))[0].leaked_Q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs/calibration"))
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--controls", type=int, default=500)
    parser.add_argument("--deals", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    set_environment()
    torch.set_num_threads(2)
    found = measure(arguments.folder, arguments.queries, arguments.controls, arguments.deals)
    print(json.dumps(found, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
