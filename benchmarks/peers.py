"""finf beside bergson, kronfluence and dattri: same model, same rows, same queries, one machine, one run.

The demo's corpus (2,000 functions of the standard library, 40 HumanEval items planted word for word, 60 with every
name changed) and a Llama of 0.86 M parameters trained on it; 164 queries, 64 of them clean. A query's loss is taken
on its solution alone, and every tool scores every row for every query.

Each run is a process of its own with one thread. Timed: the fit (once per model) and the scoring (all that a query
needs), by the clock and in CPU seconds, which other work on the machine stretches less; reading, tokenising, loading
and importing are not. Memory is the peak resident size of the process. Recall is of the planted rows, in the best of
three orders for a peer: its score, its score per target, and that lent finf's own normalisation over the queries.

A tool is represented by its cheapest settings among those within one renamed query of its best recall@5; the fastest
settings of all stand beside it. What a folder holds already is not run again: take a new one after a change of code.

python -m benchmarks.peers [--folder FOLDER] [--tools finf bergson ...] [--rows N] [--queries N] [--repeats N]
                           [--sweep] [--timeout SECONDS] [--json]
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.peer_comparison import Run, compare, merge_repeats
from benchmarks.peer_settings import CHOSEN, TRIED, settings_of
from finf_core.fingerprint import fingerprint, short
from flows.demo import DemoSize, prepare_demo

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SIZE = DemoSize(num_verbatim=40, num_renamed=60, num_clean=64)


def measure_all(arguments: argparse.Namespace) -> list[Run]:
    """Every run that is asked for, the tools in turn, so that a busy hour is shared; what is there is read."""
    variants = {tool: CHOSEN[tool] | (TRIED.get(tool, {}) if arguments.sweep else {}) for tool in arguments.tools}
    longest = max(map(len, variants.values()))
    found: list[Run] = []
    for repeat in range(arguments.repeats):
        for place in range(longest):
            for tool, its_variants in variants.items():
                found += [_run(arguments, tool, name, repeat) for name in list(its_variants)[place : place + 1]]
    return list(merge_repeats(found))


def _run(arguments: argparse.Namespace, tool: str, variant: str, repeat: int) -> Run:
    mark = fingerprint([tool, asdict(settings_of(tool, variant)), arguments.rows, arguments.queries, repeat])
    result = arguments.folder / "runs" / f"{tool}-{short(mark)}.json"
    if not result.exists():
        result.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.peer_run", tool, variant, "--folder", str(arguments.folder)]
        command += [f"--into={result}"]
        command += [f"--{name}={value}" for name in ("rows", "queries") if (value := getattr(arguments, name))]
        _say(f"{tool}: {variant}")
        log = result.with_suffix(".log")
        try:
            with log.open("w") as stream:
                subprocess.run(
                    command,
                    env=os.environ | ONE_THREAD,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    timeout=arguments.timeout,
                    check=True,
                )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return {"tool": tool, "variant": variant, "error": f"{type(error).__name__}, see {log}"}
    run: Run = json.loads(result.read_text())
    return run


def prepare(folder: Path) -> None:
    """The demo's inputs and model, unless the folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare_demo(folder, SIZE)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_table(found: dict[str, Any]) -> None:
    heads = ("fit s", "score s", "CPU s", "peak GB", "verbatim @1 @5", "renamed @1 @5", "order")
    print(f"{'':54}" + "".join(f"{head:>18}" for head in heads))
    for run in found["runs"]:
        name = f"{run['tool']}: {run['variant']}"
        if "error" in run:
            print(f"{name:54} {run['error']}")
            continue
        recall = run["recall"][run["best_order"]]
        pairs = [f"{recall[f'{kind}_at_1']:.2f} {recall[f'{kind}_at_5']:.2f}" for kind in ("verbatim", "renamed")]
        numbers = [run["fit_seconds"], run["score_seconds"], run["total_cpu_seconds"], run["peak_bytes"] / 1e9]
        print(f"{name:54}" + "".join(f"{number:18.1f}" for number in numbers), end="")
        print("".join(f"{pair:>18}" for pair in [*pairs, run["best_order"]]))
    print(json.dumps({key: value for key, value in found.items() if key not in ("runs", "tools")}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="inputs and finished runs, used again; default: a temporary one")
    parser.add_argument("--tools", nargs="+", choices=tuple(CHOSEN), default=tuple(CHOSEN))
    parser.add_argument("--rows", type=int, help="the first rows and the planted ones; default: all")
    parser.add_argument("--queries", type=int, help="about so many; default: all")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="all settings that were tried, not only the chosen")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one run")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    with TemporaryDirectory() as temporary:
        arguments.folder = (arguments.folder or Path(temporary)).resolve()
        prepare(arguments.folder)
        found = compare(measure_all(arguments), SIZE.num_renamed)
    _print_table(found)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
