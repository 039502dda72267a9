"""The config snippets of docs/CORPUS.md are valid configs."""

import re
from pathlib import Path

import pytest

from tasks.config import load_config

PAGE = Path(__file__).parent.parent / "docs" / "CORPUS.md"
SNIPPETS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
SECTIONS = {name: f'[{name}]\npath = "p"\n' for name in ("model", "corpus", "queries")}


def test_the_page_has_snippets() -> None:
    assert len(SNIPPETS) == PAGE.read_text().count("```toml") == 7


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_is_a_valid_part_of_a_config(snippet: str, tmp_path: Path) -> None:
    missing = [section for name, section in SECTIONS.items() if f"[{name}]" not in snippet]
    path = tmp_path / "scan.toml"
    path.write_text('name = "page"\n' + snippet + "".join(missing))
    load_config(path)
