"""The configs that docs/ shows and `finf init` writes are valid."""

import re
from pathlib import Path

import pytest

from flows.config_template import TEMPLATES
from tasks.config import load_config

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
SNIPPETS = [
    pytest.param(snippet, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL))
]
SECTIONS = {name: f'[{name}]\npath = "p"\n' for name in ("model", "corpus", "queries")}


def test_every_snippet_is_found() -> None:
    assert len(SNIPPETS) == sum(page.read_text().count("```toml") for page in PAGES) > 12


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_is_a_valid_part_of_a_config(snippet: str, tmp_path: Path) -> None:
    missing = [section for name, section in SECTIONS.items() if f"[{name}]" not in snippet]
    named = "" if re.search("^name = ", snippet, re.MULTILINE) else 'name = "page"\n'
    images = 'image_column = "image"\n' if 'kind = "diffusion"' in snippet and "[corpus]" not in snippet else ""
    path = tmp_path / "scan.toml"
    path.write_text(named + snippet + "".join(section + images * ("[corpus]" in section) for section in missing))
    load_config(path)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_what_init_writes_is_valid(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "written.toml"
    path.write_text(TEMPLATES[kind])
    assert load_config(path).kind == ("attribute" if kind == "diffusion" else kind)
