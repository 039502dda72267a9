"""A scan of one's own, graded against a given truth: a scan for every update kind and seed, then the measures.

Scans are resumed as ever, from the store.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from finf_core.fingerprint import fingerprint, short
from finf_core.metrics import seed_interval
from finf_core.spec import ScanSpec, UpdateKind
from flows.scan import run_scan
from tasks import storage
from tasks.config import load_config
from tasks.evaluation.given_truth import is_by_place, read_true_rows
from tasks.evaluation.grade import calibrate, grade, ranked_by_scan, ranked_by_words
from tasks.evaluation.spec import GivenTruthSpec
from tasks.options import RunOptions

Grades = Sequence[Mapping[str, float | None]]  # one per seed


@flow(name="evaluate scan", validate_parameters=False)
def evaluate_scan(spec: GivenTruthSpec, options: RunOptions) -> dict[str, Any]:
    """Scan, grade, and publish `<store>/evaluate-<name>-<fingerprint>/result.json`."""
    started = time.monotonic()
    true_rows, scan_spec = read_true_rows(spec.truth), load_config(Path(spec.scan))
    by_place, seeds = is_by_place(true_rows), range(spec.num_seeds)
    runs = {kind: [run_scan(_of_kind(scan_spec, kind, seed), options) for seed in seeds] for kind in spec.kinds}
    grades: dict[str, Grades] = {
        kind: [grade(ranked_by_scan(run, by_place), true_rows, spec.recall_at) for run in runs[kind]] for kind in runs
    }
    any_run = next(iter(runs.values()))[0]
    for method in spec.lexical:
        ranked = [ranked_by_words(any_run, method, by_place, seed) for seed in seeds]
        grades[method] = [grade(each, true_rows, spec.recall_at) for each in ranked]
    result = {
        "name": spec.name,
        "runs": runs,
        **_by_measure(grades),
        "calibration": {kind: calibrate(runs[kind][0], true_rows) for kind in runs},
        "num_queries_with_true_rows": len(true_rows),
        "num_true_rows": sum(map(len, true_rows.values())),
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = storage.join(options.store, f"evaluate-{spec.name}-{short(fingerprint([spec, scan_spec]))}")
    storage.publish_bytes(storage.join(folder, "result.json"), json.dumps(result).encode())
    return result


def _of_kind(spec: ScanSpec, kind: UpdateKind, seed: int) -> ScanSpec:
    """Every query on every row: the calibration counts all mirror ratios."""
    update, strategy = replace(spec.update, kind=kind, seed=seed), replace(spec.strategy, kind="every_query")
    return replace(spec, name=f"{spec.name}-{kind}", update=update, strategy=strategy)


def _by_measure(grades: Mapping[str, Grades]) -> dict[str, Any]:
    """measure -> method -> mean over seeds, and the same with its interval."""
    result: dict[str, Any] = {}
    for measure in next(iter(grades.values()))[0]:
        values = {method: [x for each in seeds if (x := each[measure]) is not None] for method, seeds in grades.items()}
        intervals = {method: seed_interval(of_seeds) for method, of_seeds in values.items() if of_seeds}
        result[measure] = {method: round(interval.mean, 4) for method, interval in intervals.items()}
        result[f"{measure}_interval"] = {method: [i.low, i.high] for method, i in intervals.items()}
    return result
