"""finf's part: the real scan of each stratum, from a config file, and what it found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contamination.prepare import say
from benchmarks.contamination.rankings import Found
from finf_core.spec import SCORING_VERSION
from tasks import storage
from tasks.config import load_config
from tasks.options import RunOptions

CONFIG = """\
kind = "scan"
name = "{name}"

[model]
path = "{folder}/model"

[corpus]
path = "{folder}/corpus"
id_column = "document_id"

[queries]
path = "{folder}/{queries}-queries.parquet"
controls = "{folder}/{queries}-controls.parquet"
context = "{{context}}"
target = "{{target}}"
id_column = "item_id"

[strategy]
kind = "one_pass"

[rank]
by = "control_z"
top_k = 20

[verdict]
fdr = 0.05
"""

Line = dict[str, Any]


def scan_inputs(folder: Path, queries: str) -> str:
    """Run or finish the scan of `<queries>-queries.parquet`; the URI of its run."""
    from flows.scan import scan
    from tasks.actor_plan import PoolOptions

    config = folder / f"{queries}.toml"
    config.write_text(CONFIG.format(name=queries, folder=folder, queries=queries), encoding="utf-8")
    done = folder / f"{queries}-run-{SCORING_VERSION}.txt"  # a run that is there needs no Prefect and no Ray
    if done.exists():
        return done.read_text()
    say(f"{folder.name}: scanning for {queries}")
    run_uri = scan(load_config(config), RunOptions(store=str(folder / "store"), pool=PoolOptions(num_actors=2)))
    done.write_text(run_uri)
    return run_uri


def scan_seconds(run_uri: str) -> float:
    """Of all stages, as the report has them."""
    report = json.loads(storage.read_bytes(storage.join(run_uri, "report.json")))
    return float(sum(timing["seconds"] for timing in report["timings"]))


def read_best_rows(run_uri: str) -> dict[str, list[Line]]:
    """The listed rows of each query, in their order; controls under their item's own id."""
    found: dict[str, list[Line]] = {}
    for line in storage.read_table(storage.join(run_uri, "top.parquet")).to_pylist():
        found.setdefault(line["query_id"].removeprefix("control:"), []).append(line)
    return found


def read_verdicts(run_uri: str) -> dict[str, Line]:
    lines = storage.read_table(storage.join(run_uri, "queries.parquet")).to_pylist()
    return {line["query_id"].removeprefix("control:"): line for line in lines}


def rankings_by(rows: Mapping[str, list[Line]], column: str) -> dict[str, list[Found]]:
    """The listed rows in the order of a column."""
    return {
        query: sorted((Found(line["document_id"], line[column]) for line in lines), key=lambda found: -found.score)
        for query, lines in rows.items()
    }
