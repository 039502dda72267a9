"""Test items that may leak: HumanEval, GSM8K, and functions of installed packages that the corpus does not hold.

Functions stand for private code. They come from files of which the corpus takes nothing, so that no variant of a clean
one gives it away, and there are enough of them for controls: HumanEval has only 164 problems.
"""

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from finf_core.errors import InputError
from tasks.demo.functions import StdlibFunction, stdlib_functions
from tasks.demo.rename import rename_identifiers

DATA = Path("../shared/data")  # of the HumanEval rephrasings and GSM8K; benchmarks alone read it
PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sqlalchemy", "sympy")  # beside the standard library
HELD_BACK_SHARE = 5  # every so many files are left to the items
ITEM_CHARS = (200, 700)
MIN_BODY_LINES = 4
REPHRASED = {
    "rephrased": "python",
    "c": "c",
    "javascript": "js",
}  # kind -> file (Yang et al., arXiv:2311.04850)


@dataclass(frozen=True)
class Item:
    item_id: str
    benchmark: str  # "humaneval", "functions" or "gsm8k"
    context: str  # read, not scored: prompt, signature and docstring, or question
    target: str  # scored: the solution
    rewordings: Mapping[str, str] = field(default_factory=dict)  # published ones, by kind

    @property
    def source(self) -> str:
        """Items of one source (a file) may be variants of each other."""
        return self.item_id.split(":")[0]

    @property
    def text(self) -> str:
        return self.context + self.target


def humaneval_items() -> list[Item]:
    """All problems; a rephrasing that is published empty is left out."""
    published = {kind: _read_lines(f"humaneval/rephrased_{name}.jsonl") for kind, name in REPHRASED.items()}
    return [
        Item(
            problem["task_id"].lower(),
            "humaneval",
            problem["prompt"],
            problem["canonical_solution"],
            {kind: lines[place]["text"] for kind, lines in published.items() if lines[place]["text"].strip()},
        )
        for place, problem in enumerate(_read_lines("humaneval/HumanEval.jsonl"))
    ]


def gsm8k_items() -> list[Item]:
    """The test problems; their reformatting is the socratic solution without the question."""
    pairs = zip(_read_lines("gsm8k/test.jsonl"), _read_lines("gsm8k/test_socratic.jsonl"), strict=True)
    return [
        Item(f"gsm8k/{place}", "gsm8k", plain["question"] + "\n", plain["answer"], {"reformatted": socratic["answer"]})
        for place, (plain, socratic) in enumerate(pairs)
    ]


def function_items() -> list[Item]:
    """Functions with a docstring and a body to speak of, from files that are held back from the corpus."""
    functions = [each for each in _functions(*ITEM_CHARS) if _is_held_back(each)]
    items = (_item_of_function(each) for each in functions)
    return [item for item in items if item is not None]


def gsm8k_training_rows() -> list[tuple[str, str]]:
    lines = enumerate(_read_lines("gsm8k/train.jsonl"))
    return [(f"gsm8k-train/{place}", f"{line['question']}\n{line['answer']}") for place, line in lines]


def function_rows(min_chars: int, max_chars: int) -> list[tuple[str, str]]:
    """(document id, text) of functions from all files that are not held back."""
    return [(each.document_id, each.text) for each in _functions(min_chars, max_chars) if not _is_held_back(each)]


def _read_lines(name: str) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        raise InputError(f"{path} is not there: the contamination benchmark reads HumanEval's rephrasings and GSM8K")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@cache
def _functions(min_chars: int, max_chars: int) -> tuple[StdlibFunction, ...]:
    """Each text once, over the standard library and the packages."""
    by_text: dict[str, StdlibFunction] = {}
    for package, root in _roots():
        for each in stdlib_functions(min_chars, max_chars, root=root):
            by_text.setdefault(each.text, StdlibFunction(f"{package}/{each.document_id}", each.text))
    return tuple(by_text.values())


def _roots() -> Iterator[tuple[str, Path]]:
    paths = sysconfig.get_paths()
    yield "stdlib", Path(paths["stdlib"])
    yield from ((package, Path(paths["purelib"]) / package) for package in PACKAGES)


def _is_held_back(function: StdlibFunction) -> bool:
    file = function.document_id.split(":")[0]
    return hashlib.sha256(file.encode()).digest()[0] % HELD_BACK_SHARE == 0


def _item_of_function(function: StdlibFunction) -> Item | None:
    """Signature and docstring | body; None where there is no docstring, hardly a body, or names cannot be changed."""
    node = ast.parse(function.text).body[0]
    if not isinstance(node, ast.FunctionDef) or ast.get_docstring(node) is None:
        return None
    end = node.body[0].end_lineno or 0
    lines = function.text.splitlines(keepends=True)
    if len(lines) - end < MIN_BODY_LINES:
        return None
    try:
        rename_identifiers(function.text)
    except InputError:
        return None
    return Item(f"functions/{function.document_id}", "functions", "".join(lines[:end]), "".join(lines[end:]))
