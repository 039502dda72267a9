"""Asking for the same code in other words: the query itself under other names, so that its structure leads to a copy.

Each variant is a scan of its own, and a row's score is its mean over the variants. Controls are reworded in the same
way, so the verdict stays valid.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contamination.rankings import Found, Rankings
from tasks.demo.rename import rename_identifiers

SEEDS = (1, 2)
# none of these is a word that plants are named with: a query must not meet its copy by the renamer's taste
VALUE_WORDS = (
    "a b c d e g h i j k m n p q r s t u v w x y z arr cnt index value data result text word key name size length"
)
FUNCTION_WORDS = "f func process helper convert apply transform evaluate determine produce"


def write_renamed(folder: Path, stratum: str, seed: int) -> str:
    """Queries and controls under other names, as `<name>-queries.parquet` and `-controls.parquet`; the name."""
    name = f"{stratum}-other-names-{seed}"
    for part in ("queries", "controls"):
        items = pq.read_table(folder / f"{stratum}-{part}.parquet").to_pylist()
        renamed = [renamed_item(item, seed) for item in items]
        pq.write_table(pa.Table.from_pylist(renamed), folder / f"{name}-{part}.parquet")
    return name


def renamed_item(item: Mapping[str, str], seed: int) -> dict[str, str]:
    """Context: up to the header of the last function; target: its body."""
    source = rename_identifiers(item["context"] + item["target"], seed, VALUE_WORDS, FUNCTION_WORDS)
    function = ast.parse(source).body[-1]
    if not isinstance(function, ast.FunctionDef):
        return {"item_id": item["item_id"], "context": "", "target": source}
    lines = source.splitlines(keepends=True)
    start = function.body[0].lineno - 1
    return {"item_id": item["item_id"], "context": "".join(lines[:start]), "target": "".join(lines[start:])}


def mean_rankings(variants: Sequence[Rankings]) -> dict[str, list[Found]]:
    """Rows by the geometric mean of their scores; where a variant does not list one, its least score stands in."""
    found = {}
    for query in variants[0]:
        scores_of = [{row.document_id: row.score for row in variant[query]} for variant in variants]
        listed = sorted({row for scores in scores_of for row in scores})
        means = [fmean(math.log(scores.get(row, min(scores.values()))) for scores in scores_of) for row in listed]
        rows = [Found(row, math.exp(mean)) for row, mean in zip(listed, means, strict=True)]
        found[query] = sorted(rows, key=lambda row: -row.score)
    return found
