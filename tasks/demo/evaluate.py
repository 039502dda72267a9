"""Grade a scan of the demo corpus against the truth, next to BM25 and n-gram overlap on the same rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from finf_core.recall import mean_recall_at_k
from tasks import storage
from tasks.demo.baselines import bm25_rankings, ngram_rankings
from tasks.demo.corpus import read_demo_rows

LEAKED_KINDS = ("verbatim", "renamed")
KINDS = (*LEAKED_KINDS, "clean")


@dataclass(frozen=True)
class Truth:
    kind: str
    document_id: str | None


def grade_demo(run_uri: str, folder: Path) -> dict[str, Any]:
    """Recall and mirror ratios per kind of leak, and the same recalls for the baselines."""
    truths = {key: Truth(**value) for key, value in json.loads((folder / "truth.json").read_text()).items()}
    ratios = _ratios_of_rows(run_uri)
    rankings = {query_id: list(rows) for query_id, rows in ratios.items()}
    return {
        "kinds": {kind: _recalls(rankings, truths, kind) | _ratios(ratios, truths, kind) for kind in LEAKED_KINDS},
        "largest_other_mirror_ratio": max(
            ratio
            for query_id, rows in ratios.items()
            for document_id, ratio in rows.items()
            if query_id in truths and document_id != truths[query_id].document_id
        ),
        "called_leaked": {kind: _called_leaked(run_uri, truths, kind) for kind in KINDS},
        "baselines": {
            name: {kind: _recalls(baseline, truths, kind) for kind in LEAKED_KINDS}
            for name, baseline in _baseline_rankings(folder, truths).items()
        },
    }


def _called_leaked(run_uri: str, truths: Mapping[str, Truth], kind: str) -> dict[str, int]:
    verdicts = storage.read_table(storage.join(run_uri, "queries.parquet")).to_pylist()
    called = [
        line["leaked"] for line in verdicts if line["query_id"] in truths and truths[line["query_id"]].kind == kind
    ]
    return {"leaked": sum(called), "queries": len(called)}


def _ratios_of_rows(run_uri: str) -> dict[str, dict[str, float]]:
    """query_id -> document_id -> mirror ratio, in the order of the ranks."""
    ratios: dict[str, dict[str, float]] = {}
    for row in storage.read_table(storage.join(run_uri, "top.parquet")).to_pylist():
        ratios.setdefault(row["query_id"], {})[row["document_id"]] = row["mirror_ratio"]
    return ratios


def _recalls(rankings: Mapping[str, Sequence[str]], truths: Mapping[str, Truth], kind: str) -> dict[str, float]:
    asked = [query_id for query_id, truth in truths.items() if truth.kind == kind]
    found, wanted = [rankings[query_id] for query_id in asked], [truths[query_id].document_id for query_id in asked]
    return {f"recall_at_{k}": mean_recall_at_k(found, wanted, k) for k in (1, 5)}


def _ratios(ratios: Mapping[str, Mapping[str, float]], truths: Mapping[str, Truth], kind: str) -> dict[str, Any]:
    """Of the true rows; one that is not among the listed rows counts as 0."""
    of_leaks = [
        ratios[query_id].get(truth.document_id or "", 0.0) for query_id, truth in truths.items() if truth.kind == kind
    ]
    return {"mirror_ratio_median": median(of_leaks), "mirror_ratio_least": min(of_leaks), "num_queries": len(of_leaks)}


def _baseline_rankings(folder: Path, truths: Mapping[str, Truth]) -> dict[str, dict[str, list[str]]]:
    """Each baseline reads the part of the query that it does better on: BM25 the solution, n-grams all of it."""
    rows, queries = read_demo_rows(folder / "corpus"), pq.read_table(folder / "queries.parquet").to_pylist()
    wanted = [truths[query["task_id"]].document_id for query in queries]
    solutions = [query["canonical_solution"] for query in queries]
    programs = [query["prompt"] + query["canonical_solution"] for query in queries]
    found = {"bm25": bm25_rankings(rows, solutions, wanted), "ngram": ngram_rankings(rows, programs, wanted)}
    return {
        name: {query["task_id"]: ranking for query, ranking in zip(queries, rankings, strict=True)}
        for name, rankings in found.items()
    }
