"""The inputs of a run on disk: corpus shards, queries and controls of each stratum, and the truth for the grader.

folder/corpus/shard-00000.parquet …      document_id, text
folder/code-queries.parquet …            item_id, context, target; likewise code-controls, maths-queries, maths-controls
folder/truth.json                        item_id -> {"benchmark", "kind", "document_ids"}
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contamination.items import (
    Item,
    function_items,
    function_rows,
    gsm8k_items,
    gsm8k_training_rows,
    humaneval_items,
)
from benchmarks.contamination.leaks import can_leak, leak_text
from benchmarks.contamination.settings import CODE, MATHS, STRATUM, Setting
from finf_core.errors import InputError

NUM_SHARDS, ROW_GROUP_ROWS = 8, 512
CLEAN, CONTROL = "clean", "control"
ITEMS = {"humaneval": humaneval_items, "functions": function_items, "gsm8k": gsm8k_items}

Row = tuple[str, str]  # document id, text


@dataclass(frozen=True)
class Truth:
    benchmark: str
    kind: str  # of the leak, or CLEAN or CONTROL
    document_ids: tuple[str, ...]  # rows planted for it


def deal_items(items: Sequence[Item], benchmark: str, setting: Setting) -> list[tuple[Item, str]]:
    """Draw which items leak how, which are clean, and which are controls.

    No clean item or control shares its source with one that leaks: a function's sibling may be half of it.

    Raises:
        InputError: fewer items than were asked for.
    """
    pool = random.Random(f"{setting.seed} {benchmark}").sample(list(items), len(items))
    dealt: list[tuple[Item, str]] = []
    wanted = dict(setting.leaks.get(benchmark, {}))
    wanted |= {CLEAN: setting.clean.get(benchmark, 0), CONTROL: setting.controls.get(benchmark, 0)}
    for kind, num in wanted.items():
        if kind == CLEAN:
            leaking = {item.source for item, _ in dealt}
            pool = [item for item in pool if item.source not in leaking]
        fits = [item for item in pool if kind in (CLEAN, CONTROL) or can_leak(item, kind)][:num]
        if len(fits) < num:
            raise InputError(f"{benchmark}: {num} items were asked for as {kind!r}; {len(fits)} are left")
        dealt += [(item, kind) for item in fits]
        taken = {item.item_id for item in fits}
        pool = [item for item in pool if item.item_id not in taken]
    return dealt


def plant(dealt: Sequence[tuple[Item, str]], occurrences: int, seed: int) -> tuple[list[Row], dict[str, Truth]]:
    """The rows to plant, and the truth."""
    rows: list[Row] = []
    truths: dict[str, Truth] = {}
    for item, kind in dealt:
        ids: tuple[str, ...] = ()
        if kind not in (CLEAN, CONTROL):
            ids = tuple(f"planted/{kind}/{item.item_id}#{number}" for number in range(1, occurrences + 1))
            text = leak_text(item, kind, seed)
            rows += [(document_id, text) for document_id in ids]
        truths[item.item_id] = Truth(item.benchmark, kind, ids)
    return rows, truths


def background_rows(setting: Setting, texts_of_items: set[str]) -> list[Row]:
    """Training problems of GSM8K and functions; no row is word for word an item.

    Raises:
        InputError: fewer rows than were asked for.
    """
    rng = random.Random(setting.seed)
    num_maths = round(setting.num_rows * setting.maths_share)
    parts = ((gsm8k_training_rows(), num_maths), (function_rows(*setting.row_chars), setting.num_rows - num_maths))
    rows: list[Row] = []
    for found, num in parts:
        innocent = [row for row in found if row[1] not in texts_of_items]
        if len(innocent) < num:
            raise InputError(f"{num} rows were asked for, {len(innocent)} such are there: lower num_rows")
        rows += rng.sample(innocent, num)
    return rows


def write_inputs(folder: Path, setting: Setting) -> dict[str, Truth]:
    """Write corpus, queries, controls and truth."""
    dealt = {name: deal_items(make(), name, setting) for name, make in ITEMS.items()}
    everything = [pair for pairs in dealt.values() for pair in pairs]
    rows, truths = plant(everything, setting.occurrences, setting.seed)
    rows += background_rows(setting, {item.text for item, _ in everything})
    random.Random(setting.seed).shuffle(rows)
    _write_shards(folder / "corpus", rows)
    for stratum in (CODE, MATHS):
        asked = [(item, kind) for item, kind in everything if STRATUM[item.benchmark] == stratum]
        for name, is_control in (("queries", False), ("controls", True)):
            chosen = [item for item, kind in asked if (kind == CONTROL) == is_control]
            _write_items(folder / f"{stratum}-{name}.parquet", chosen)
    (folder / "truth.json").write_text(json.dumps({name: asdict(truth) for name, truth in truths.items()}))
    return truths


def read_rows(folder: Path) -> list[Row]:
    """In the order of the shards."""
    tables = [pq.read_table(path) for path in sorted((folder / "corpus").glob("*.parquet"))]
    return [(line["document_id"], line["text"]) for table in tables for line in table.to_pylist()]


def read_items(folder: Path, stratum: str) -> list[dict[str, str]]:
    """Queries, then controls: item_id, context, target."""
    return [
        line
        for name in ("queries", "controls")
        for line in pq.read_table(folder / f"{stratum}-{name}.parquet").to_pylist()
    ]


def read_truths(folder: Path) -> dict[str, Truth]:
    lines = json.loads((folder / "truth.json").read_text())
    return {name: Truth(each["benchmark"], each["kind"], tuple(each["document_ids"])) for name, each in lines.items()}


def _write_shards(corpus: Path, rows: Sequence[Row]) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for shard in range(NUM_SHARDS):
        part = rows[shard * len(rows) // NUM_SHARDS : (shard + 1) * len(rows) // NUM_SHARDS]
        table = pa.table({"document_id": [row[0] for row in part], "text": [row[1] for row in part]})
        pq.write_table(table, corpus / f"shard-{shard:05d}.parquet", row_group_size=ROW_GROUP_ROWS)


def _write_items(path: Path, items: Sequence[Item]) -> None:
    columns = ("item_id", "context", "target")
    pq.write_table(pa.table({column: [getattr(item, column) for item in items] for column in columns}), path)
