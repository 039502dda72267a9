"""Who finds benchmark items that leaked into a training corpus, even reworded?

A corpus of real code and problems (functions of the Python standard library and of installed packages, GSM8K's
training problems) in which items of HumanEval, GSM8K and held-back functions are planted, word for word, in another
layout, under other names, rephrased and in other languages; a small model trained on it from random weights; finf's
scan, and the methods it has to beat, on the same rows and queries, judged by the same controls.

Every part is kept under `--root` and not made again. `--share 0.05` is a quick look (minutes).

python -m benchmarks.contamination [--root FOLDER] [--share S] [--methods a,b] [--sampled] [--json]
"""

import argparse
import json
from pathlib import Path

from flows.environment import set_environment

set_environment()

import torch  # noqa: E402

from benchmarks.contamination.lexical import METHODS  # noqa: E402
from benchmarks.contamination.measure import measure  # noqa: E402
from benchmarks.contamination.prepare import prepare  # noqa: E402
from benchmarks.contamination.settings import Setting, scaled  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("benchmark-runs/contamination"))
    parser.add_argument("--share", type=float, default=1.0, help="of rows, plants, clean items and controls")
    parser.add_argument("--methods", default=",".join(METHODS), help="lexical methods")
    parser.add_argument("--sampled", action="store_true", help="also what costs a pass for each query, on a sample")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting() if arguments.share == 1 else scaled(Setting(), arguments.share)
    folder = prepare(arguments.root.resolve(), setting)
    found = measure(folder, tuple(arguments.methods.split(",")), arguments.sampled)
    (folder / "result.json").write_text(json.dumps(found, indent=1))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
