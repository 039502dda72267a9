"""Who finds benchmark items that leaked into a training corpus, even reworded?

A corpus of real code and problems (functions of the Python standard library and of installed packages, GSM8K's
training problems) in which items of HumanEval, GSM8K and held-back functions are planted, word for word, in another
layout, under other names, rephrased and in other languages; a small model trained on it from random weights; finf's
scan, and the methods it has to beat, on the same rows and queries, judged by the same controls.

Every part is kept under `--root` and not made again. `--share 0.05` is a quick look (minutes). `--sampled` adds what
costs a pass for each query, `--curves` the model's size, epochs and occurrences; `--page` writes the tables.

python -m benchmarks.contamination [--preset cpu|gpu] [--share S] [--sampled] [--curves N] [--page FILE] [--json]
"""

import argparse
import json
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from flows.environment import set_environment

set_environment()

import torch  # noqa: E402

from benchmarks.contamination.curves import CURVES  # noqa: E402
from benchmarks.contamination.lexical import METHODS  # noqa: E402
from benchmarks.contamination.measure import measure, measure_curves  # noqa: E402
from benchmarks.contamination.page import render_section  # noqa: E402
from benchmarks.contamination.prepare import prepare  # noqa: E402
from benchmarks.contamination.settings import PRESETS, scaled  # noqa: E402
from benchmarks.pages import replace_section  # noqa: E402

INTRODUCTION = Path(__file__).with_name("introduction.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("benchmark-runs/contamination"))
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--share", type=float, default=1.0, help="of rows, plants, clean items and controls")
    parser.add_argument("--methods", default=",".join(METHODS), help="lexical methods")
    parser.add_argument("--sampled", action="store_true", help="also what costs a pass for each query, on a sample")
    parser.add_argument("--curves", type=int, default=0, help="also so many smaller corpora, in their order")
    parser.add_argument("--page", type=Path, help="put the tables into this page")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    preset, root = PRESETS[arguments.preset], arguments.root.resolve()
    folder = prepare(root, preset if arguments.share == 1 else scaled(preset, arguments.share))
    found = measure(folder, tuple(arguments.methods.split(",")), arguments.sampled)
    chosen = dict(islice(CURVES.items(), arguments.curves))
    found |= {"curves": measure_curves(root, chosen)} if chosen else {}
    found["f1"] = found.pop("f1")  # last, where a reader looks
    (folder / "result.json").write_text(json.dumps(found, indent=1))
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        section = render_section(found, introduction(found))
        arguments.page.write_text(replace_section(page, section), encoding="utf-8")
    if arguments.json:
        print(json.dumps(found))


def introduction(found: dict[str, Any]) -> str:
    return INTRODUCTION.read_text(encoding="utf-8").format(date=date.today().isoformat(), **found["facts"])


if __name__ == "__main__":
    main()
