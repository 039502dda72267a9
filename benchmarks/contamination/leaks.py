"""How an item gets into a corpus: word for word, laid out anew, under other names, rephrased, in another language."""

import ast
import re
import textwrap

from benchmarks.contamination.items import Item
from finf_core.errors import InputError
from tasks.demo.rename import rename_identifiers

KIND_GROUPS = {  # as the headline counts them
    "verbatim": ("verbatim",),
    "reformatted": ("reformatted",),
    "renamed": ("renamed",),
    "rephrased": ("rephrased",),
    "other_language": ("c", "javascript"),
}
DOCSTRING_CHARS = 60  # wide, after re-wrapping


def leak_text(item: Item, kind: str, seed: int) -> str:
    """The row that is planted.

    Raises:
        InputError: the item has no such form.
    """
    if kind == "verbatim":
        return item.text
    if kind in item.rewordings:
        return item.rewordings[kind]
    if item.benchmark != "gsm8k" and kind == "renamed":
        return rename_identifiers(item.text, seed)
    if item.benchmark != "gsm8k" and kind == "reformatted":
        return reformat_code(item.text)
    raise InputError(f"{item.item_id} has no {kind!r} form")


def can_leak(item: Item, kind: str) -> bool:
    return kind in ("verbatim", *item.rewordings) or (item.benchmark != "gsm8k" and kind in ("renamed", "reformatted"))


def reformat_code(source: str) -> str:
    """The same program in another layout: spaces, quotes, brackets and line ends as `ast` writes them, blank lines and
    comments gone, indented by two, docstrings wrapped anew. Names and words stay.

    Raises:
        InputError: the source does not parse.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"cannot reformat a source that does not parse: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant(_wrapped(ast.get_docstring(node) or "")))
    lines = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    return "\n".join(_half_indented(line) for line in lines if line.strip()) + "\n"


def _wrapped(docstring: str) -> str:
    return "\n".join(textwrap.wrap(re.sub(r"\s+", " ", docstring), DOCSTRING_CHARS))


def _half_indented(line: str) -> str:
    stripped = line.lstrip(" ")
    return " " * ((len(line) - len(stripped)) // 2) + stripped
