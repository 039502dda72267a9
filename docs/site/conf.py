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
    "Start": ["docs/site/tutorial", "docs/site/configs", "docs/site/commands"],
    "Questions": ["docs/LEAKAGE", "docs/MODELS", "docs/MISLABEL", "docs/MEMORIZE", "docs/TRACE", "docs/DIFFUSION"],
    "Any corpus": ["docs/CORPUS", "docs/NIGHTS"],
    "Running it": ["deploy/README", "docs/RELIABILITY"],
    "How good": ["docs/RESULTS", "docs/PERFORMANCE"],
    "Inside": ["CONTRIBUTING", "docs/site/reference", "docs/DECISIONS", "docs/DEPENDENCIES", "CHANGELOG"],
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


def _contents(title: str, pages: list[str]) -> str:
    return "\n".join(["\n", "```{toctree}", ":hidden:", f":caption: {title}", "", *(f"/{page}" for page in pages), "```"])


def _name_the_first_page(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        shutil.copy(app.outdir / f"{START}.html", app.outdir / "index.html")
