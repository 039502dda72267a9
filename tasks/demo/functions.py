"""Real functions of the Python standard library: the innocent rows of the demo corpus.

The text comes from the interpreter that runs this, so it needs no download; another Python version gives
other rows. Left out, whole folders at a time: installed packages, tests, and the two bundled programs
(`idlelib`, `lib2to3`) and the turtle demos, which are applications and not the library.
"""

import ast
import functools
import os
import random
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from finf_core.errors import InputError

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}
)
MIN_CHARS = 120  # shorter ones are mostly one-line getters
MAX_CHARS = 350  # short, so that thousands of functions can be scored in two minutes on two cores

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class StdlibFunction:
    document_id: str  # "argparse.py:HelpFormatter.add_text:245"
    text: str  # source with its decorators, dedented


class FunctionSample(NamedTuple):
    functions: list[StdlibFunction]
    skipped_files: tuple[str, ...]  # could not be read or parsed


def choose_functions(num: int, seed: int, min_chars: int = MIN_CHARS, max_chars: int = MAX_CHARS) -> FunctionSample:
    """Draw `num` functions of the standard library; the same seed and interpreter draw the same ones.

    Raises:
        InputError: the standard library has fewer functions of that length.
    """
    functions, skipped_files = _library(min_chars, max_chars)
    if num > len(functions):
        found = f"the standard library has {len(functions)} functions of {min_chars} to {max_chars} characters"
        raise InputError(f"{found}; {num} were asked for: ask for fewer, or widen the range")
    return FunctionSample(random.Random(seed).sample(functions, num), skipped_files)


@functools.cache  # parsing the whole library takes seconds
def _library(min_chars: int, max_chars: int) -> FunctionSample:
    skipped_files: list[str] = []
    functions = list(stdlib_functions(min_chars, max_chars, skipped_files=skipped_files))
    return FunctionSample(functions, tuple(skipped_files))


def stdlib_functions(
    min_chars: int, max_chars: int, root: Path | None = None, skipped_files: list[str] | None = None
) -> Iterator[StdlibFunction]:
    """Yield top-level functions and methods, each text once, in an order that no file system decides.

    Args:
        min_chars, max_chars: length of the dedented source, both ends included.
        root: folder to walk; the running interpreter's standard library by default.
        skipped_files: receives the name of every file that cannot be read or parsed.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for path in _python_files(root):
        name = path.relative_to(root).as_posix()
        try:
            functions = _functions_of_file(path, name)
        except (OSError, SyntaxError, ValueError):  # ValueError: bad encoding, null bytes
            if skipped_files is not None:
                skipped_files.append(name)
            continue
        for function in functions:
            if min_chars <= len(function.text) <= max_chars and function.text not in seen:
                seen.add(function.text)
                yield function


def _python_files(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


def _functions_of_file(path: Path, name: str) -> list[StdlibFunction]:
    with tokenize.open(path) as file:  # honours the coding line
        source = file.read()
    with warnings.catch_warnings(action="ignore"):  # old modules hold invalid escapes
        tree = ast.parse(source)
    lines = source.split("\n")  # not splitlines(): a form feed ends no line of Python
    return [
        StdlibFunction(f"{name}:{qualified_name}:{node.lineno}", _dedented_source(lines, node))
        for qualified_name, node in _functions_in(tree.body)
    ]


def _functions_in(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions_in(node.body, f"{prefix}{node.name}.")


def _dedented_source(lines: list[str], node: Function) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    indent = lines[node.lineno - 1][: node.col_offset]
    return "\n".join(line.removeprefix(indent) for line in lines[first - 1 : node.end_lineno]) + "\n"
