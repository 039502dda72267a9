"""Sections of docs/RESULTS.md (from a `## ` heading to the next): each benchmark writes its own and no other."""

import re
from collections.abc import Iterator, Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def replace_section(page: str, section: str) -> str:
    """The page with this section in place of the one with its heading, or at the end."""
    heading, new = section.split("\n", 1)[0], section.rstrip("\n") + "\n"
    parts = _sections(page)
    if heading in [_heading(part) for part in parts]:
        parts = [new if _heading(part) == heading else part for part in parts]
    else:
        parts.append(new)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def kept_sections(page: str, made: str) -> str:
    """The sections of a page that are not among those of another; empty where there are none."""
    headings = {_heading(part) for part in _sections(made)}
    kept = [part.rstrip("\n") + "\n" for part in _sections(page) if _heading(part) not in {"", *headings}]
    return "\n".join(kept)


def _sections(page: str) -> list[str]:
    """The page in pieces: what stands before the first section, and each section."""
    return [part for part in re.split(r"^(?=## )", page, flags=re.MULTILINE) if part]


def _heading(part: str) -> str:
    line = part.split("\n", 1)[0]
    return line if line.startswith("## ") else ""
