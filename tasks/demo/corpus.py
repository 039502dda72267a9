"""The demo's inputs on disk: a corpus in Parquet shards, the queries, and the truth that only the grader reads.

folder/corpus/shard-00000.parquet …   document_id, text
folder/queries.parquet                task_id, prompt, canonical_solution
folder/controls.parquet               the same, of problems that are neither planted nor asked for
folder/truth.json                     task_id -> {"kind": …, "document_id": … or null}
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finf_core.errors import InputError
from tasks.demo.functions import choose_functions
from tasks.demo.plants import Plant, Problem, humaneval_problems, make_plants

ROW_GROUP_ROWS = 128  # so that even a demo shard has several units of work


class Row(NamedTuple):
    document_id: str
    text: str


@dataclass(frozen=True)
class DemoInputs:
    corpus: Path  # folder of the shards
    queries: Path
    truth: Path
    num_rows: int
    num_characters: int
    num_files: int  # shards
    num_queries: int
    num_controls: int
    skipped_files: tuple[str, ...]  # standard library files that could not be read or parsed


def write_demo_inputs(
    folder: Path, num_functions: int, num_verbatim: int, num_renamed: int, num_clean: int, num_shards: int, seed: int
) -> DemoInputs:
    """Write a shuffled corpus with planted HumanEval rows, one query per plant or clean problem, and the truth.

    All other problems are clean too: they are the controls.

    The same arguments under the same interpreter write the same rows in the same order.

    Raises:
        InputError: more functions or problems are asked for than exist, or more shards than rows.
    """
    problems = humaneval_problems()
    plants = make_plants(problems, num_verbatim, num_renamed, num_clean, seed)
    sample = choose_functions(num_functions, seed)
    rows = [Row(function.document_id, function.text) for function in sample.functions]
    rows += [Row(_planted_id(plant), plant.text) for plant in plants if plant.text is not None]
    random.Random(seed).shuffle(rows)
    _write_shards(folder / "corpus", rows, num_shards)
    asked = {plant.task_id for plant in plants}
    _write_queries(folder / "queries.parquet", [problem for problem in problems if problem.task_id in asked])
    _write_queries(folder / "controls.parquet", [problem for problem in problems if problem.task_id not in asked])
    _write_truth(folder / "truth.json", plants)
    return DemoInputs(
        corpus=folder / "corpus",
        queries=folder / "queries.parquet",
        truth=folder / "truth.json",
        num_rows=len(rows),
        num_characters=sum(len(row.text) for row in rows),
        num_files=num_shards,
        num_queries=len(plants),
        num_controls=len(problems) - len(plants),
        skipped_files=sample.skipped_files,
    )


def read_demo_rows(corpus: Path) -> list[Row]:
    """Read every row of the shards back, in the order of the shards."""
    tables = [pq.read_table(path) for path in sorted(corpus.glob("shard-*.parquet"))]
    return [Row(**record) for table in tables for record in table.to_pylist()]


def _planted_id(plant: Plant) -> str:
    return f"planted/{plant.task_id}"  # for people who read the report; no scorer reads it


def _write_shards(corpus: Path, rows: Sequence[Row], num_shards: int) -> None:
    if not 1 <= num_shards <= len(rows):
        raise InputError(f"num_shards is {num_shards}, but the demo corpus has {len(rows)} rows: give 1 to {len(rows)}")
    corpus.mkdir(parents=True, exist_ok=True)
    for stale in corpus.glob("shard-*.parquet"):  # an earlier demo may have had more shards
        stale.unlink()
    for shard in range(num_shards):
        part = rows[shard * len(rows) // num_shards : (shard + 1) * len(rows) // num_shards]
        table = pa.table({"document_id": [row.document_id for row in part], "text": [row.text for row in part]})
        pq.write_table(table, corpus / f"shard-{shard:05d}.parquet", row_group_size=ROW_GROUP_ROWS)


def _write_queries(path: Path, problems: Sequence[Problem]) -> None:
    columns = ("task_id", "prompt", "canonical_solution")
    pq.write_table(pa.table({column: [getattr(problem, column) for problem in problems] for column in columns}), path)


def _write_truth(path: Path, plants: Sequence[Plant]) -> None:
    truth = {
        plant.task_id: {"kind": plant.kind, "document_id": None if plant.text is None else _planted_id(plant)}
        for plant in plants
    }
    path.write_text(json.dumps(truth, indent=2) + "\n")
