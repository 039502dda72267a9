"""The documentation site: README.md and the pages of docs/ and deploy/ as they lie, and pages made of the code.

`make docs` builds it into build/site, offline. A page that `NAVIGATION` does not list, a broken link and a name that is
not there end the build.
"""

import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "site")]

import generated_pages  # noqa: E402  imports finf

START = "README"
NAVIGATION = {
    "Start": {
        "What finf is": START,
        "Tutorial: your first scan": "docs/site/tutorial",
        "Configs": "docs/site/configs",
        "Commands": "docs/site/commands",
    },
    "Questions": {
        "Leaked benchmark items": "docs/LEAKAGE",
        "Attribution: any model": "docs/MODELS",
        "Wrong labels": "docs/MISLABEL",
        "Memorised rows": "docs/MEMORIZE",
        "Where a fact was learned": "docs/TRACE",
        "Generated images": "docs/DIFFUSION",
    },
    "Any corpus": {"What it may look like": "docs/CORPUS", "One that grows: nights": "docs/NIGHTS"},
    "Running it": {
        "Elsewhere": "deploy/README",
        "Reliability": "docs/RELIABILITY",
        "A fleet: cost and limits": "docs/FLEET",
    },
    "How good": {"Results": "docs/RESULTS", "Performance": "docs/PERFORMANCE"},
    "Inside": {
        "Contributing": "CONTRIBUTING",
        "Reference": "docs/site/reference",
        "Decisions": "docs/DECISIONS",
        "Dependencies": "docs/DEPENDENCIES",
        "Changelog": "CHANGELOG",
    },
}

project, project_copyright = "finf", "The finf developers, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = START
include_patterns = ["*.md", "deploy/*.md", "docs/*.md", "docs/site/*.md"]
exclude_patterns = [".*"]

html_theme = "furo"
html_title = "finf"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False

myst_heading_anchors = 3
smartquotes = False

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
default_role = "code"


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add)
    app.connect("build-finished", _name_the_first_page)


def _add(app: Sphinx, page: str, source: list[str]) -> None:
    """The navigation goes below the first page, what is made of the code below the page of its name."""
    if page == START:
        source[0] += "".join(_contents(title, pages) for title, pages in NAVIGATION.items())
    elif (make := generated_pages.PAGES.get(page)) is not None:
        source[0] += make()


def _contents(caption: str, pages: dict[str, str]) -> str:
    lines = [f"{title} </{page}>" if page != START else f"{title} <self>" for title, page in pages.items()]
    return "\n".join(["\n", "```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"])


def _name_the_first_page(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        shutil.copy(app.outdir / f"{START}.html", app.outdir / "index.html")
