"""Three floors, imports go down only: flows -> tasks -> finf_core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "finf_core": {"flows", "tasks", "prefect", "ray", "fsspec", "s3fs", "boto3", "botocore", "datasets"},
    "tasks": {"flows", "prefect"},
    "flows": {"ray", "torch", "fsspec", "s3fs", "pyarrow"},
}


def imported_packages(source: str) -> Iterator[str]:
    """Top-level packages of every import, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def violations(floor: str, source: str) -> set[str]:
    return FORBIDDEN[floor] & set(imported_packages(source))


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_no_module_imports_a_floor_above_or_a_tool_of_another_floor(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    assert {str(file): bad for file in files if (bad := violations(floor, file.read_text()))} == {}


def test_a_planted_violation_is_seen_even_inside_a_function() -> None:
    assert violations("finf_core", "def f():\n    from tasks.storage import join\n") == {"tasks"}
    assert violations("tasks", "import prefect.artifacts as a\n") == {"prefect"}
    assert violations("flows", "import torch\n") == {"torch"}
