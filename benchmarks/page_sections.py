"""Sections of docs/RESULTS.md that benchmarks write, one each: found and replaced by their headings."""

from pathlib import Path


def find_section(page: str, heading: str) -> str:
    """The section of a page, its heading first; empty where it has none."""
    _, mark, rest = f"\n{page}".partition(f"\n{heading}\n")
    return (mark.lstrip("\n") + rest.partition("\n## ")[0]).rstrip("\n") + "\n" if mark else ""


def replace_section(path: Path, heading: str, text: str) -> None:
    """Put a section where it stands, or at the end of the page."""
    page = path.read_text(encoding="utf-8")
    old, new = find_section(page, heading), text.rstrip("\n") + "\n"
    page = page.replace(old, new) if old else page.rstrip("\n") + "\n\n" + new
    path.write_text(page, encoding="utf-8")
