"""`finf demo`: plant, train, scan, grade. Everything on this machine, nothing downloaded."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from finf_core.fingerprint import fingerprint
from finf_core.report.visible import visible_line
from flows.scan import run_scan
from flows.terminal import show_json
from tasks import storage
from tasks.config import load_config
from tasks.demo.corpus import read_demo_rows, write_demo_inputs
from tasks.demo.evaluate import grade_demo
from tasks.demo.train import TrainSettings, train_model
from tasks.options import RunOptions

CONFIG = """\
kind = "scan"
name = "demo"

[model]
path = "{folder}/model"

[corpus]
path = "{folder}/corpus"
id_column = "document_id"

[queries]
path = "{folder}/queries.parquet"
context = "{{prompt}}"              # read, not scored
target = "{{canonical_solution}}"   # the loss is taken here: the part that can leak
id_column = "task_id"
{controls}
[update]
kind = "kfac"
curvature_rows = 512              # of 2,036: enough for layers as small as these

[rank]
by = "control_z"                  # against the row's ratios for the other queries: finds reworded copies best
top_k = 20
"""
CONTROLS = 'controls = "{folder}/controls.parquet"   # known to be clean: what queries are judged by\n'


@dataclass(frozen=True)
class DemoSize:
    num_functions: int = 2000
    num_verbatim: int = 12
    num_renamed: int = 24
    num_clean: int = 8
    num_shards: int = 8
    seed: int = 0
    train: TrainSettings = field(default_factory=TrainSettings)


def run_demo(folder: Path, as_json: bool, size: DemoSize = DemoSize()) -> None:
    """Make the inputs and the model (unless they are there), scan, grade and print."""
    started = time.monotonic()
    config = prepare_demo(folder, size)
    run_uri = run_scan(load_config(config), RunOptions(store=str(folder / "store")))
    grade = grade_demo(run_uri, folder)
    result = {"run": run_uri, **grade, "seconds": round(time.monotonic() - started, 1)}
    _print_tables(result, Console(stderr=as_json, markup=False))
    if as_json:
        show_json(result)


def prepare_demo(folder: Path, size: DemoSize) -> Path:
    """Corpus, queries, model and config; what an earlier demo of the same size left is used again."""
    config, prepared = folder / "scan.toml", folder / "prepared.json"
    mark = fingerprint([size, CONFIG, CONTROLS])
    if prepared.exists() and json.loads(prepared.read_text())["fingerprint"] == mark:
        _say(f"using the corpus and the model in {folder}")
        return config
    prepared.unlink(missing_ok=True)
    inputs = write_demo_inputs(
        folder, size.num_functions, size.num_verbatim, size.num_renamed, size.num_clean, size.num_shards, size.seed
    )
    _say(
        f"corpus: {size.num_functions:,} functions of the standard library and {size.num_verbatim + size.num_renamed} "
        f"planted HumanEval items, {inputs.num_characters / 1e6:.2f} MB in {inputs.num_files} shards"
    )
    _say("training a small language model on it, from random weights:")
    trained = train_model(
        [row.text for row in read_demo_rows(inputs.corpus)],
        folder / "model",
        size.train,
        lambda share, line: _say(f"  {share:4.0%}  {line}"),
    )
    _say(f"  {trained.num_parameters / 1e6:.2f} M parameters, {trained.seconds:.0f} s")
    controls = CONTROLS.format(folder=folder) if inputs.num_controls else ""
    config.write_text(CONFIG.format(folder=folder, controls=controls), encoding="utf-8")
    prepared.write_text(json.dumps({"fingerprint": mark}), encoding="utf-8")
    return config


def _say(line: str) -> None:
    print(visible_line(line), file=sys.stderr, flush=True)


def _print_tables(result: dict[str, Any], console: Console) -> None:
    table = Table(title="Who finds the planted rows?")
    for column in ("leak", "method", "recall@1", "recall@5", "mirror ratio: median", "least"):
        table.add_column(column, justify="left" if column in ("leak", "method") else "right")
    for kind, ours in result["kinds"].items():
        ratios = (f"{ours['mirror_ratio_median']:.2f}", f"{ours['mirror_ratio_least']:.2f}")
        table.add_row(kind, "finf", f"{ours['recall_at_1']:.2f}", f"{ours['recall_at_5']:.2f}", *ratios)
        for name, baseline in result["baselines"].items():
            recalls = baseline[kind]
            table.add_row(kind, name, f"{recalls['recall_at_1']:.2f}", f"{recalls['recall_at_5']:.2f}", "", "")
    console.print(table)
    console.print("finf: loss on the solution, rows by control_z; bm25 reads the solution, ngram the whole item")
    console.print(f"largest mirror ratio of any other row: {result['largest_other_mirror_ratio']:.2f}")
    called = ", ".join(
        f"{each['leaked']} of {each['queries']} {kind}" for kind, each in result["called_leaked"].items()
    )
    console.print(f"called leaked: {called}")
    page = visible_line(storage.join(result["run"], "report.html"))
    console.print(f"report: {page}   ({result['seconds']} s)", soft_wrap=True)
