"""Write report.html, summary.md, junit.xml and, last of all, report.json: when that is there, the run is complete."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from finf_core.ratio_histogram import EDGES
from finf_core.report.gallery import render_gallery
from finf_core.report.html import render_report
from finf_core.report.outcomes import count_outcomes
from finf_core.report.summary import render_junit, render_markdown
from finf_core.spec import SCORING_VERSION, WITHOUT_CURVATURE
from finf_core.verdict import Null, verdict_note, verdict_rule
from tasks import storage
from tasks.attribution import attribution
from tasks.check_precision import describe_precision, read_precision_check
from tasks.choose_strategy import describe_strategy, read_strategy
from tasks.curvature_store import describe_cost, read_cost
from tasks.job import ScanJob
from tasks.memorization import memorization
from tasks.mislabel import mislabelled
from tasks.queries import read_queries
from tasks.report_queries import places, query_sections
from tasks.trace import trace

NAMED_VERSIONS = ("finf", "torch", "transformers", "pyarrow", "ray", "prefect")

Render = Callable[[Mapping[str, Any]], str]
OF_SCANS: dict[str, Render] = {"report.html": render_report, "summary.md": render_markdown, "junit.xml": render_junit}
OF_OTHERS: dict[str, Render] = {"report.html": render_gallery}

ANSWERS: dict[str, Callable[[ScanJob], dict[str, Any]]] = {  # kind of run -> its sections
    "attribute": attribution,
    "mislabel": mislabelled,
    "memorize": memorization,
    "trace": trace,
}

Timing = dict[str, Any]  # stage, seconds, cached


def publish_report(job: ScanJob, timings: Sequence[Timing]) -> str:
    """Gather every number of the run; returns the URI of report.json."""
    report = build_report(job, timings) if job.spec.is_scan else build_gallery(job, timings)
    for name, render in renderers(report).items():
        storage.publish_bytes(job.file(name), render(report).encode())
    storage.publish_bytes(job.file("report.json"), json.dumps(report, allow_nan=False).encode())
    return job.file("report.json")


def renderers(report: Mapping[str, Any]) -> dict[str, Render]:
    """All that is made of report.json and nothing else."""
    return {"scan": OF_SCANS, **dict.fromkeys(ANSWERS, OF_OTHERS)}[report["kind"]]


def build_gallery(job: ScanJob, timings: Sequence[Timing]) -> dict[str, Any]:
    """The mapping that report.json holds and `finf_core.report.gallery` renders."""
    totals = json.loads(storage.read_bytes(job.file("totals.json")))
    totals.pop("null", None)
    record, answer = run_record(job, timings, totals), ANSWERS[job.spec.kind](job)
    record["summary"] |= answer.pop("summary", {})
    return record | answer


def build_report(job: ScanJob, timings: Sequence[Timing]) -> dict[str, Any]:
    """The mapping that report.json holds and `finf_core.report.html` renders."""
    totals = json.loads(storage.read_bytes(job.file("totals.json")))
    judged = storage.read_table(job.file("queries.parquet")).to_pylist()
    verdicts = [verdict for verdict in judged if not verdict["is_control"]]
    controls = [verdict for verdict in judged if verdict["is_control"]]
    null = Null(**totals.pop("null"))
    section = _verdict_section(job, null, len(verdicts))
    sections = query_sections(job, verdicts, section)
    record = run_record(job, timings, totals)
    record["summary"] = {
        "num_queries": len(verdicts),
        "num_leaked": sum(verdict["leaked"] for verdict in verdicts),
        "num_controls": len(controls),
        "outcomes": count_outcomes([verdict["outcome"] for verdict in verdicts], bool(controls)),
        **record["summary"],
    }
    return record | {
        "verdict": section,
        "histogram": _histogram([verdict["ratio_counts"] for verdict in verdicts]) | {"of": _counted(job)},
        "controls": [{key: each[key] for key in ("query_id", "statistic", "max_mirror_ratio")} for each in controls],
        "queries": sections,
        "places": places(job, sections, section),
    }


def run_record(job: ScanJob, timings: Sequence[Timing], totals: dict[str, Any]) -> dict[str, Any]:
    """What every kind of run says of itself: what it was, what it read, what it left out, what it cost."""
    sample = job.spec.corpus.sample
    quarantined = totals.pop("quarantined")
    skipped = [dict(zip(("shard", "row", "reason"), item, strict=True)) for item in totals.pop("skipped_rows")]
    return {
        "kind": job.spec.kind,
        "name": job.spec.name,
        "fingerprint": job.fingerprint,
        "finf_version": version("finf"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "summary": {
            "seconds": sum(timing["seconds"] for timing in timings),
            "cost": _cost(job, totals),
            **totals,
        },
        "skipped_rows": skipped,
        "quarantined": quarantined,
        **({} if job.spec.kind == "memorize" else _choices(job)),
        "curvature": None if job.update.kind in WITHOUT_CURVATURE else asdict(read_cost(job.curvature_uri)),
        "checks": describe_checks(job),
        "spec": asdict(job.spec),
        "inputs": {
            "model": {"path": job.spec.model.path, "digest": job.model_digest},
            **({"queries": {"path": path, "digest": job.queries_digest}} if (path := job.spec.queries.path) else {}),
            "corpus": {"path": job.spec.corpus.path, "digest": job.shards_digest},
            **({} if sample is None else {"sample": {"path": sample, "digest": job.sample_digest}}),
        },
        "versions": {
            "python": platform.python_version(),
            "scoring": str(SCORING_VERSION),
            **{name: version(name) for name in NAMED_VERSIONS},
        },
        "timings": list(timings),
    }


def _cost(job: ScanJob, totals: Mapping[str, Any]) -> dict[str, float | None]:
    """What actors spent on rows; updates and curvature are in the timings."""
    seconds = totals["actor_seconds"]
    return {
        "actor_seconds": seconds,
        "tokens_per_actor_second": totals["num_tokens"] / seconds if seconds else None,
        "forward_equivalents": None if job.spec.kind == "memorize" else _forward_equivalents(job),
    }


def _forward_equivalents(job: ScanJob) -> float:
    strategy = read_strategy(job)
    return {cost.kind: cost.forward_equivalents for cost in strategy.costs}[strategy.kind]


def _choices(job: ScanJob) -> dict[str, Any]:
    """What the run chose for itself."""
    return {"precision": asdict(read_precision_check(job)), "strategy": asdict(read_strategy(job))}


def _verdict_section(job: ScanJob, null: Null, num_queries: int) -> dict[str, Any]:
    spec = job.spec.verdict
    return {
        "rule": verdict_rule(job.spec.rank, spec, null.num_controls),
        "threshold": spec.copied_from,
        "shared_from": spec.shared_from if job.spec.rank.lexical_k else None,
        "fdr": spec.fdr if null.num_controls else None,
        "note": verdict_note(null, num_queries, spec),
        "null": asdict(null),
    }


def describe_checks(job: ScanJob) -> list[str]:
    """What was measured before scoring, a sentence each."""
    costs = [] if job.update.kind in WITHOUT_CURVATURE else [read_cost(job.curvature_uri)]
    if job.spec.kind == "memorize":
        return [describe_cost(job.update.kind, cost) for cost in costs]
    num_queries = len(read_queries(job.queries_uri))
    return [
        *(describe_cost(job.update.kind, cost) for cost in costs),
        describe_precision(read_precision_check(job)),
        describe_strategy(read_strategy(job), num_queries),
    ]


def _histogram(counts_QK: Sequence[Sequence[int]]) -> dict[str, Any]:
    below, *counts, above = (sum(bin_counts) for bin_counts in zip(*counts_QK, strict=True))
    return {"edges": [round(float(edge), 10) for edge in EDGES], "counts": counts, "below": below, "above": above}


def _counted(job: ScanJob) -> str:
    """What the histogram counts: a first pass knows mirror ratios roughly, and for every row."""
    if not job.has_first_pass:
        return "mirror ratio"
    return {
        "one_pass": "first-order ratio of the row's best block",
        "grouped": "mirror ratio for a group of queries",
    }[str(job.first_pass.kind)]
