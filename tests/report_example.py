"""A report mapping like the one that a scan writes into `report.json`, made without a scan.

The numbers have the shape of a real one: nearly every pair sits at 0, planted copies sit near 1.
"""

import difflib
import random
import re
from collections import Counter
from typing import Any

BIN_WIDTH = 0.01
FIRST_EDGE, LAST_EDGE = -0.5, 1.5
HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>"

_BODIES = (
    '''def running_total(values):
    """Give the sum of all values up to each position.

    >>> running_total([1, 2, 3])
    [1, 3, 6]
    """
    totals, total = [], 0
    for value in values:
        total += value
        totals.append(total)
    return totals
''',
    """def is_balanced(text):
    depth = 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            return False
    return depth == 0
""",
    """def longest_word(sentence):
    # the first of several
    return max(sentence.split(), key=len)
""",
    """def rotate(rows):
    return [list(column) for column in zip(*rows[::-1])]
""",
    '''def digits_of(number, base=10):
    """Digits of a whole number, the most significant first.

    >>> digits_of(13, base=2)
    [1, 1, 0, 1]
    """
    if number == 0:
        return [0]
    digits = []
    while number:
        number, digit = divmod(number, base)
        digits.append(digit)
    return digits[::-1]
''',
    """class Counter:
    def __init__(self, names):
        self.counts = {name: 0 for name in names}

    def add(self, name):
        if name not in self.counts:
            raise KeyError(name)
        self.counts[name] += 1
        return self
""",
)


def example_report(
    num_queries: int = 64, num_leaked: int = 40, num_rows: int = 2048, rows_per_query: int = 20, seed: int = 7
) -> dict[str, Any]:
    """Build a whole report; the first `num_leaked` queries leaked, in each of the three ways."""
    rng = random.Random(seed)
    queries = [_query(rng, index, index < num_leaked, rows_per_query) for index in range(num_queries)]
    return {
        "kind": "scan",
        "name": "demo",
        "fingerprint": "3f9a1c27e0b84d5566aa90c1d2e3f40718293a4b5c6d7e8f90a1b2c3d4e5f607",
        "finf_version": "0.1.0",
        "finished_at": "2026-11-22T12:00:00Z",
        "summary": _summary(queries, num_rows),
        "places": _places(queries, num_rows),
        "verdict": {
            "rule": "leaked when the largest mirror ratio is at least 0.50",
            "threshold": 0.5,
            "shared_from": 0.5,
            "fdr": None,
            "note": "No controls were given, so no error rate is claimed: add queries that are known to be clean.",
        },
        "histogram": _histogram(rng, queries, num_queries * num_rows),
        "queries": queries,
        "controls": [],
        "skipped_rows": [],
        "quarantined": [],
        "checks": [
            "kfac curvature fitted on 2,036 rows (140,860 tokens) in 31.8 s, 6.5 MB; 69% of the parameters move",
            "changes are taken as forward differences, whose signal is 705 times their noise on a sample of rows",
        ],
        "spec": _spec(),
        "inputs": {
            "model": {"path": "s3://bucket/models/tiny-gpt2", "digest": "b1" * 32},
            "queries": {"path": "queries/humaneval.jsonl", "digest": "c2" * 32},
            "corpus": {"path": "s3://bucket/corpus/", "digest": "d3" * 32},
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0", "prefect": "3.8.8", "ray": "2.60.0", "pyarrow": "26.0.0"},
        "timings": [
            {"stage": "resolve inputs", "seconds": 1.4, "cached": False},
            {"stage": "fit curvature", "seconds": 0.3, "cached": True},
            {"stage": "mirrored updates", "seconds": 36.9, "cached": False},
            {"stage": "score shards", "seconds": 101.2, "cached": False},
            {"stage": "aggregate", "seconds": 0.4, "cached": False},
        ],
    }


def skipped_rows(num: int) -> list[dict[str, Any]]:
    return [
        {"shard": f"s3://bucket/corpus/shard-{index % 8:05d}.parquet", "row": 3 + 17 * index, "reason": "text is empty"}
        for index in range(num)
    ]


def with_units_set_aside(report: dict[str, Any]) -> dict[str, Any]:
    """One of them, with what the report says of it."""
    unit = {
        "shard": "s3://bucket/corpus/shard-00003.parquet",
        "row_groups": "4 to 5",
        "rows": "512 to 639",
        "num_rows": 128,
        "reason": "5 actors died while they worked on it (most often memory is short): ActorDiedError",
    }
    return report | {"quarantined": [unit], "summary": report["summary"] | {"num_quarantined_rows": 128}}


def with_text_everywhere(report: dict[str, Any], text: str) -> dict[str, Any]:
    """The same report with `text` in every place that holds a string which finf did not write itself."""
    keep = {"kind", "finished_at", "fingerprint", "outcome"}
    marks = {
        "spans": [[0, 2, 1, 3]],
        "token_ends": [2, 4],
        "token_ratios": [None, 2.0],
        "picture": None,
    }  # inside of any text

    def planted(value: Any, key: str = "") -> Any:
        if key == "evidence" and value is not None:
            return value | marks | {"text": text}
        if isinstance(value, dict) and "num_hits" in value:
            return value | {"name": f"folder/{text}"}  # the page shows a folder where names have one
        if isinstance(value, dict):
            return {name: planted(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [planted(item, key) for item in value]
        return text if isinstance(value, str) and key not in keep else value

    return {key: planted(value, key) for key, value in report.items()}


def _query(rng: random.Random, index: int, leaked: bool, rows_per_query: int) -> dict[str, Any]:
    body = _BODIES[index % len(_BODIES)]
    outcome = ("copied_learned", "rephrased_learned", "copied_learned", "copied_not_learned")[index % 4]
    if not leaked:
        outcome = "neither"
    learned = outcome.endswith("_learned") and outcome != "copied_not_learned"
    best = rng.gauss(0.99, 0.015) if outcome == "copied_learned" else rng.uniform(0.53, 0.94)
    ratios = [best if learned else rng.uniform(0.04, 0.3)]
    while len(ratios) < rows_per_query:
        ratios.append(min(ratios[-1], 0.22) * rng.uniform(0.82, 0.99))
    planted = outcome if leaked else ""
    top = [_row(rng, index, rank, ratio, planted if rank == 1 else "") for rank, ratio in enumerate(ratios, start=1)]
    return {
        "query_id": f"HumanEval/{index}",
        "text_excerpt": body,
        "context_characters": body.index("\n") + 1,
        "pictures": [],
        "num_targets": 40 + 7 * (index % 13),
        "base_nats_per_target": rng.uniform(0.4, 2.4),
        "moved_nats_per_target": 0.1,
        "max_mirror_ratio": ratios[0],
        "max_shared": max((row["shared"] for row in top), default=0.0),
        "p_value": None,
        "q_value": None,
        "leaked": leaked,
        "loss_q_value": None,
        "outcome": outcome,
        "top": top[:rows_per_query],
    }


def with_controls(report: dict[str, Any], num_controls: int = 120, fdr: float = 0.05) -> dict[str, Any]:
    """The same report, judged by controls."""
    rng, leaked = random.Random(5), report["summary"]["num_leaked"]
    report["controls"] = [
        {"query_id": f"control:{index}", "statistic": rng.gauss(0, 1), "max_mirror_ratio": rng.uniform(0.02, 0.22)}
        for index in range(num_controls)
    ]
    for query in report["queries"]:
        query["p_value"] = 1 / (1 + num_controls) if query["leaked"] else rng.uniform(0.1, 1)
        query["statistic"] = rng.gauss(0, 1)
        query["q_value"] = query["p_value"] * len(report["queries"]) / max(1, leaked) if query["leaked"] else 0.8
    report["summary"]["num_controls"] = num_controls
    report["verdict"] |= {"fdr": fdr, "rule": f"leaked when its q-value is at most {fdr}", "note": "120 controls."}
    return report


def _row(rng: random.Random, query: int, rank: int, ratio: float, planted: str) -> dict[str, Any]:
    num_targets = 60 + rng.randrange(200)
    body = _BODIES[query % len(_BODIES)]
    text = body if planted.startswith("copied") else _reworded(body) if planted else rng.choice(_BODIES)
    evidence = _evidence(rng, body, text, planted != "copied_not_learned") if planted else None
    return {
        "rank": rank,
        "shard": f"s3://bucket/corpus/shard-{rng.randrange(8):05d}.parquet",
        "row": rng.randrange(256),
        "document_id": f"planted/{query}"
        if planted
        else f"stdlib/{rng.choice(('json', 'email', 'ast'))}/{rng.randrange(900)}",
        "source": rng.choice(("github", "stackexchange", "web")),
        "date": f"2026-{1 + rng.randrange(9):02d}",
        "score": ratio * 12.5,
        "mirror_ratio": ratio,
        "row_ratio": ratio / 2,
        "control_z": None if rank > 12 else ratio * 8.4 - 0.3,
        "shared": 1.0 if planted.startswith("copied") else 0.0 if planted else round(rng.uniform(0, 0.1), 2),
        "base_nats": num_targets * rng.uniform(0.5, 2.0),
        "num_targets": num_targets,
        "text_excerpt": text[:400],
        "evidence": evidence,
    }


def _reworded(body: str) -> str:
    for word, other in (("value", "item"), ("number", "n"), ("total", "acc"), ("text", "s"), ("depth", "level")):
        body = body.replace(word, other)
    return body


def _evidence(rng: random.Random, query: str, text: str, learned: bool) -> dict[str, Any]:
    """The row's text between two neighbours; what it shares with the query was lost with it, if it was learned."""
    before, after = rng.choice(_BODIES)[-90:] + "\n\n", "\n\n" + rng.choice(_BODIES)[:120]
    whole = before + text + after
    blocks = difflib.SequenceMatcher(None, query, whole, autojunk=False).get_matching_blocks()
    spans = [[block.a, block.a + block.size, block.b, block.b + block.size] for block in blocks if block.size > 24]
    ends = [found.end() for found in re.finditer(r"\s*(\w{1,6}|[^\w\s]+)|\s+$", whole)]
    inside = [len(before) < end <= len(before) + len(text) for end in ends]
    ratios = [rng.lognormvariate(-0.4, 0.9) if learned and is_in else rng.gauss(0, 0.3) for is_in in inside]
    return {
        "text": whole,
        "first_character": 1200,
        "num_characters": 1200 + len(whole) + 3000,
        "spans": spans,
        "token_ends": ends,
        "token_ratios": [None, *(round(ratio, 3) for ratio in ratios[1:])],
        "picture": None,
    }


def _summary(queries: list[dict[str, Any]], num_rows: int) -> dict[str, Any]:
    outcomes = [query["outcome"] for query in queries]
    return {
        "num_queries": len(queries),
        "num_leaked": sum(query["leaked"] for query in queries),
        "outcomes": {
            key: outcomes.count(key) for key in ("copied_learned", "rephrased_learned", "copied_not_learned", "neither")
        },
        "num_controls": 0,
        "num_shards": 8,
        "num_rows": num_rows,
        "num_tokens": 64 * num_rows,
        "num_targets": 63 * num_rows,
        "num_skipped_rows": 0,
        "num_quarantined_rows": 0,
        "seconds": 140.2,
        "cost": {"actor_seconds": 203.4, "tokens_per_actor_second": 54_012.7, "forward_equivalents": 2.9},
    }


def _places(queries: list[dict[str, Any]], num_rows: int) -> dict[str, Any]:
    best = [query["top"][0] for query in queries if query["leaked"] and query["top"]]
    places: dict[str, Any] = {}
    for key in ("shard", "source", "date"):
        hits = Counter(row[key] for row in best)
        known = num_rows // 8 if key == "shard" else None
        places[key] = [
            {"name": name, "num_rows": known, "num_hits": num, "num_queries": num} for name, num in hits.most_common(50)
        ]
        places[f"{key}_more"] = max(0, len(hits) - 50)
    return places


def _histogram(rng: random.Random, queries: list[dict[str, Any]], num_pairs: int) -> dict[str, Any]:
    """The ratios of the listed rows, and noise round 0 for all other pairs (a sample of it, scaled up)."""
    num_bins = round((LAST_EDGE - FIRST_EDGE) / BIN_WIDTH)
    counts = [0] * num_bins
    listed = [row["mirror_ratio"] for query in queries for row in query["top"]]
    num_noise = max(0, num_pairs - len(listed))
    num_drawn = min(20_000, num_noise)
    scale = num_noise // num_drawn if num_drawn else 0
    noise = [rng.gauss(0, 0.012) * rng.expovariate(0.8) for _ in range(num_drawn)]
    for ratios, weight in ((listed, 1), (noise, scale)):
        for ratio in ratios:
            counts[min(num_bins - 1, max(0, int((ratio - FIRST_EDGE) / BIN_WIDTH)))] += weight
    edges = [round(FIRST_EDGE + BIN_WIDTH * index, 2) for index in range(num_bins + 1)]
    return {"of": "mirror ratio", "edges": edges, "counts": counts, "below": 0, "above": 0}


def _spec() -> dict[str, Any]:
    return {
        "scoring_version": 1,
        "update": {"kind": "kfac", "sign": "ascent", "steps": 1, "target_nats": 0.1, "parameters": "all"},
        "loss": {"dtype": "float32", "query_mask": "solution", "max_tokens": 512},
        "verdict": {"threshold": 0.5},
        "top_k": 20,
    }
