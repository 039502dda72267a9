"""Rename every identifier that a program owns: a copy with the same behaviour and hardly an n-gram in common.

A name is owned when Python's own scoping (`symtable`) binds it in every scope where it occurs: a function, a
parameter, a local, a comprehension variable, a global that this source defines. Builtins, imports and attributes
keep their names; docstrings and comments go.

The behaviour stays, unless a program looks at its own names (`locals()`, `eval`, `__name__`) or passes one of its
parameters by keyword through anything but a direct call.
"""

import ast
import builtins
import itertools
import keyword
import random
import symtable
from collections.abc import Iterable, Iterator

from finf_core.errors import InputError

VALUE_WORDS = (
    "acc aux base bag batch bound box buf cand cell chunk cost cur datum delta depth digit edge ele entry flag "
    "fst gap grp head hit idx inner item kk left limit lo low mark mid nb node obj offs outer pair part pos prev "
    "probe qty rank ref rem res right row run seen seq side slot snd span spot src stack stop sub tail tally tgt tmp "
    "tok top total unit val wd win xs xx ys yy zs"
)
VERBS = "build calc check collect compute derive do find fold gather get handle make pick run solve"
NOUNS = "all answer case data entries group items output parts pieces result rows stuff target things"
NAME_FIELD = {
    ast.AsyncFunctionDef: "name",
    ast.ExceptHandler: "name",
    ast.FunctionDef: "name",
    ast.MatchAs: "name",
    ast.MatchMapping: "rest",
    ast.MatchStar: "name",
    ast.Name: "id",
    ast.arg: "arg",
}


FUNCTION_WORDS = " ".join(f"{verb}_{noun}" for verb in VERBS.split() for noun in NOUNS.split())


def rename_identifiers(
    source: str, seed: int = 0, value_words: str = VALUE_WORDS, function_words: str = FUNCTION_WORDS
) -> str:
    """Write the same program under other names, without docstrings and comments.

    Args:
        source: a module of functions, usually one HumanEval problem: prompt and solution together.
        seed: another seed draws other names; the draw depends on the source too.
        value_words, function_words: what names are drawn from; when they run out, they are numbered.

    Raises:
        InputError: the source does not parse, or defines a class, whose names are attributes elsewhere.
    """
    try:
        tree = ast.parse(source)
        owned = _owned_names(symtable.symtable(source, "<source>", "exec"))
    except SyntaxError as error:
        raise InputError(f"cannot rename a source that does not parse: {error}") from error
    if any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)):
        raise InputError("cannot rename a source that defines a class: give functions only")
    parameters = _parameters_by_function(tree)
    rng, reserved = random.Random(f"{seed} {source}"), _reserved_words(tree)
    value_names = _endless(value_words.split(), reserved, rng)
    function_names = _endless(function_words.split(), reserved, rng)
    renaming = {name: next(function_names if name in parameters else value_names) for name in sorted(owned)}
    return ast.unparse(_Renamer(renaming, parameters).visit(tree)) + "\n"


def _owned_names(module: symtable.SymbolTable) -> set[str]:
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned()}
    owned: set[str] = set()
    foreign: set[str] = set()
    for symbol in itertools.chain.from_iterable(scope.get_symbols() for scope in _scopes(module)):
        name = symbol.get_name()
        is_bound = symbol.is_local() or symbol.is_free() or name in defined
        (owned if is_bound and not symbol.is_imported() else foreign).add(name)
    return {name for name in owned - foreign if name.isidentifier()}  # ".0": the iterator of a comprehension


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _parameters_by_function(tree: ast.Module) -> dict[str, set[str]]:
    parameters: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters.setdefault(node.name, set()).update(argument.arg for argument in named)
    return parameters


def _reserved_words(tree: ast.Module) -> set[str]:
    """Words that a drawn name must not be: every string in the tree is one too many rather than one too few."""
    in_tree = {value for node in ast.walk(tree) for _, value in ast.iter_fields(node) if isinstance(value, str)}
    return in_tree | set(dir(builtins)) | set(keyword.kwlist) | set(keyword.softkwlist)


def _endless(words: Iterable[str], reserved: set[str], rng: random.Random) -> Iterator[str]:
    """Yield the words in a drawn order, then numbered: never one name twice."""
    shuffled = sorted(words)
    rng.shuffle(shuffled)
    for suffix in itertools.chain([""], itertools.count(2)):
        yield from (name for word in shuffled if (name := f"{word}{suffix}") not in reserved)


class _Renamer(ast.NodeTransformer):
    def __init__(self, renaming: dict[str, str], parameters: dict[str, set[str]]) -> None:
        self.renaming = renaming
        self.parameters = parameters

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Call):
            self._rename_keywords(node)  # first: it looks the function up under its old name
        self.generic_visit(node)
        field = NAME_FIELD.get(type(node))
        if field is not None:
            setattr(node, field, self.renaming.get(getattr(node, field), getattr(node, field)))
        elif isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [self.renaming.get(name, name) for name in node.names]
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
        return node

    def _rename_keywords(self, call: ast.Call) -> None:
        parameters = self.parameters.get(call.func.id, set()) if isinstance(call.func, ast.Name) else set()
        for word in call.keywords:
            if word.arg in parameters:
                word.arg = self.renaming.get(word.arg, word.arg)


def _drop_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
