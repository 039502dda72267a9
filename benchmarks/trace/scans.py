"""finf itself, as `finf trace` runs it (one pass for all facts, then each on its best rows): no Prefect, no Ray."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from benchmarks.many_queries import run_strategy
from benchmarks.trace.facts import Fact
from benchmarks.trace.measure import LISTED
from benchmarks.trace.prepare import Prepared
from finf_core.spec import CorpusSpec, QueriesSpec, RankSpec, ScanSpec
from tasks import storage


@dataclass(frozen=True)
class Style:
    """How a fact is asked for: what is read, and what the loss is taken on."""

    name: str
    means: str
    context: str
    target: str


CLOZE = Style("cloze", "the tail after a prompt with the head's name; loss on the tail alone", "{prompt}", "{target}")
SHORT = Style("short name", "the prompt has only the last word of the head's name", "{short_prompt}", "{target}")
SENTENCE = Style("sentence", "the true row's own words before the tail: no paraphrase", "{sentence_prompt}", "{target}")
STYLES = (CLOZE, SHORT, SENTENCE)


@dataclass(frozen=True)
class Traced:
    """Rankings of the rows, best first, one for each fact."""

    rankings: list[list[int]]  # by what was asked for
    by_mirror_ratio: list[list[int]]
    seconds: dict[str, Any]  # by stage; and the strategy


def run_trace(prepared: Prepared, facts: Sequence[Fact], style: Style, by: str) -> Traced:
    """What a run of kind "trace" lists; kept in a file."""
    path = prepared.folder / f"listed-{style.name.replace(' ', '-')}-{by}.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(_run(prepared, facts, style, by))))
    return Traced(**json.loads(path.read_text()))


def _run(prepared: Prepared, facts: Sequence[Fact], style: Style, by: str) -> Traced:
    path = str(prepared.folder / f"facts-{len(facts)}.parquet")
    storage.publish_table(path, pa.Table.from_pylist([fact_line(fact) for fact in facts]))
    spec = ScanSpec(
        kind="trace",
        name=f"{style.name.replace(' ', '-')}-{by}",
        model=prepared.model,
        corpus=CorpusSpec(path=str(prepared.folder / "corpus.parquet"), id_column="id"),
        queries=QueriesSpec(path=path, id_column="id", context=style.context, target=style.target),
        rank=RankSpec(top_k=LISTED, by=by, lexical_k=LISTED),  # type: ignore[arg-type]
    )
    job, seconds = run_strategy(spec, str(prepared.folder / "store"))
    lines = storage.read_table(job.file("top.parquet")).to_pylist()
    rankings, by_mirror = (_rankings(lines, facts, column) for column in (by, "mirror_ratio"))
    strategy = job.strategy.kind if job.strategy else None
    return Traced(rankings, by_mirror, {"strategy": strategy} | seconds)


def _rankings(lines: Sequence[dict[str, Any]], facts: Sequence[Fact], by: str) -> list[list[int]]:
    found: dict[str, list[int]] = {fact.fact_id: [] for fact in facts}
    for line in sorted(lines, key=lambda line: -(line[by] or 0)):
        if len(found[line["query_id"]]) < LISTED and (line[by] or 0) > 0:
            found[line["query_id"]].append(line["row"])
    return list(found.values())


def fact_line(fact: Fact) -> dict[str, str]:
    prompts = {"prompt": fact.prompt, "short_prompt": fact.short_prompt, "target": fact.target}
    return {"id": fact.fact_id, "sentence_prompt": fact.sentence_prompt} | prompts
