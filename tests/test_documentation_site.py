"""The documentation site: built strictly, asks no other host for anything, and can be read in a browser without one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)
FETCHED_BY_STYLES = re.compile(
    r"url\(\s*['\"]?\s*((?:https?:)?//[^)]*)|@import\s+(?:url\()?\s*['\"]((?:https?:)?//[^'\"]*)"
)
NAMED_FILES = re.compile(r"`((?:finf_core|tasks|flows|tests|docs|benchmarks|deploy|locks)/[\w/.-]+\.\w+)`")


def build(tree: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    """As `make docs`: warnings are errors."""
    where = ["-c", tree / "docs" / "site", "-d", out.parent / "doctrees", tree, out]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", *where], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "html"
    done = build(ROOT, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


class Fetched(HTMLParser):
    """What a page fetches by itself; a link to follow (`<a>`) is nothing of the kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._tag = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self._tag = tag
        if tag != "a":
            self.addresses += [named[name] for name in ("src", "href", "data", "poster", "action") if name in named]
            self.addresses += re.split(r"[\s,]+", named.get("srcset", ""))
        self.addresses += styles(named.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._tag == "style":
            self.addresses += styles(data)


def styles(text: str) -> list[str]:
    return [first or second for first, second in FETCHED_BY_STYLES.findall(text)]


def from_elsewhere(site: Path) -> Iterator[str]:
    """Addresses of other hosts, of whatever is fetched."""
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            found = [address for address in Fetched(path.read_text()).addresses if ELSEWHERE.match(address)]
        else:
            found = styles(path.read_text()) if path.suffix in (".css", ".svg") else []
        yield from (f"{path.relative_to(site)}: {address}" for address in found)


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    assert list(from_elsewhere(site)) == []


@pytest.mark.parametrize(
    "planted",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href='//fonts.example/css'>",
        "<img srcset='a.png 1x, https://x.example/b.png 2x'>",
        "<p style=\"background: url('https://x.example/a.png')\">",
        "<style>@import 'https://x.example/a.css';</style>",
    ],
)
def test_what_is_fetched_from_another_host_would_be_seen(planted: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<a href='https://x.example'>a link is fine</a>{planted}")
    assert len(list(from_elsewhere(tmp_path))) == 1


def test_every_page_is_there_and_so_are_the_public_names_commands_and_configs(site: Path) -> None:
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    sources = [path for folder in (ROOT, ROOT / "docs", ROOT / "deploy") for path in folder.glob("*.md")]
    assert {str(path.relative_to(ROOT).with_suffix(".html")) for path in sources} | {"index.html"} <= pages
    reference = (site / "docs" / "site" / "reference.html").read_text()
    assert all(f'id="finf_core.{name}"' in reference for name in ("mirrored_update", "CausalLM", "errors.InputError"))
    assert "never over an existing file" in (site / "docs" / "site" / "commands.html").read_text()
    assert 'id="finf-init-mislabel"' in (site / "docs" / "site" / "configs.html").read_text()


def test_a_broken_link_and_a_page_that_nobody_lists_end_the_build(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("docs/site", "finf_core", "flows", "deploy"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))):
        shutil.copy(ROOT / name, tree / name)
    with (tree / "docs" / "NIGHTS.md").open("a") as page:
        page.write("\n[to nowhere](NOWHERE.md) and [to no section](CORPUS.md#no-such-section)\n")
    (tree / "docs" / "ALONE.md").write_text("# Alone\n")
    done = build(tree, tmp_path / "html")
    assert done.returncode == 1
    assert all(word in done.stderr for word in ("NOWHERE.md", "no-such-section", "ALONE.md"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_read_and_searched_in_a_browser_from_the_disk(site: Path, browser: Browser, scheme: str) -> None:
    asked: list[str] = []
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{site}/index.html")
    page.get_by_role("link", name="Wrong labels").first.click()
    assert page.locator("h1").first.inner_text().startswith("Wrong labels")
    page.get_by_role("textbox", name="Search").fill("conformal")
    page.keyboard.press("Enter")
    assert page.get_by_role("link", name="Leakage scans").first.inner_text()
    page.close()
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    named = NAMED_FILES.findall((ROOT / page).read_text())
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
