"""Which sentences taught a model a fact? finf, gradients, embeddings and words, on facts that the model really knows.

A model is trained from random weights on the sentences of FewRel (../shared/data/fewrel), each of which states one fact
of Wikidata. Facts are asked for in other words; asked are only those that the model knows, by its loss on the tail
beside that after other heads. The one true row is the sentence that states the fact. Recipes (damping, which parameters
move, normalisation) are chosen on one part of the facts, all methods are measured on the other.

Every part is kept under `--root` and not made again. The default share of the sentences took some 40
minutes of two busy cores, `--share 0.05` takes a few.

python -m benchmarks.trace [--root F] [--data F] [--share S] [--without-minilm] [--page FILE] [--json]
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

from flows.environment import set_environment

set_environment()

import torch  # noqa: E402

from benchmarks.pages import replace_section  # noqa: E402
from benchmarks.trace.compare import compare  # noqa: E402
from benchmarks.trace.page import render_section  # noqa: E402
from benchmarks.trace.prepare import prepare  # noqa: E402

DATA = Path(__file__).parents[2] / "../shared/data/fewrel/val_wiki.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("benchmark-runs/trace"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--share", type=float, default=0.25, help="of the 11,200 sentences")
    parser.add_argument("--without-minilm", action="store_true", help="it reads every sentence with 22 M parameters")
    parser.add_argument("--page", type=Path, help="put the tables into this page")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepared = prepare(arguments.root.resolve(), arguments.data, arguments.share)
    found = compare(prepared, not arguments.without_minilm, lambda line: print(line, file=sys.stderr, flush=True))
    (prepared.folder / "result.json").write_text(json.dumps(found, indent=1))
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        section = render_section(found, date.today().isoformat())
        arguments.page.write_text(replace_section(page, section), encoding="utf-8")
    print(json.dumps(found, indent=None if arguments.json else 1))


if __name__ == "__main__":
    main()
