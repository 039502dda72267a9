"""No line of finf unpickles, evaluates or runs what comes from a file: the three packages are searched for it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "marshal.loads"),
    *("eval", "exec", "compile", "os.system", "yaml.load", "joblib.load", "dill.loads", "shelve.open"),
}
TRUE_IS_FORBIDDEN = {"allow_pickle", "trust_remote_code", "shell"}


def violations(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            yield from (f"from pickle import {each.name}" for each in node.names if each.name.startswith("load"))
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {each.arg: ast.unparse(each.value) for each in node.keywords}
        if name in FORBIDDEN:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        yield from (f"{key}={given[key]}" for key in TRUE_IS_FORBIDDEN & set(given) if given[key] != "False")


@pytest.mark.parametrize("package", ["finf_core", "tasks", "flows"])
def test_no_module_runs_or_unpickles_what_it_reads(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert {str(file): bad for file in files if (bad := list(violations(file.read_text())))} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle\ndef f(b): return pickle.loads(b)",
        "from pickle import loads",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "AutoConfig.from_pretrained(f, trust_remote_code=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_planted_violation_is_seen(planted: str) -> None:
    assert list(violations(planted))


def test_what_is_allowed_is_not_called_a_violation() -> None:
    assert not list(violations("torch.load(f, weights_only=True); re.compile('a'); model.eval()"))
