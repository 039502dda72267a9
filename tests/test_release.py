"""One version, said in pyproject.toml, CITATION.cff and the newest heading of CHANGELOG.md; a tag agrees with it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASE = re.compile(r"## (\d+\.\d+\.\d+) · (\d{4}-\d\d-\d\d)")
UNRELEASED = "## Unreleased"


def flaws(version: str, citation: dict[str, Any], changelog: str, tags: list[str]) -> list[str]:
    """Where they disagree. Under "Unreleased" the version is that of the next release, `.dev0`; a tag is `v` and it."""
    headings = [line for line in changelog.splitlines() if line.startswith("## ")]
    released = [found.groups() for line in headings if (found := RELEASE.fullmatch(line))]
    unreleased = headings[0] == UNRELEASED
    newest, date = ("0", None) if not released else released[0]
    found = [] if len(released) == len(headings) - unreleased else ["a heading is neither Unreleased nor a release"]
    if unreleased and not (version.endswith(".dev0") and Version(version) > Version(newest)):
        found.append(f"{version} is not {newest}'s successor in the making")
    if not unreleased and version != newest:
        found.append(f"{version} is not {newest}, the newest release")
    if citation["version"] != version or str(citation.get("date-released")) != str(None if unreleased else date):
        found.append("CITATION.cff has another version or date")
    return found + [f"tag {tag}" for tag in tags if tag != f"v{version}"]


def tags_of_this_commit() -> list[str]:
    """None where there is no git."""
    done = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "--list", "v*"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.split()


def test_version_citation_changelog_and_tag_agree() -> None:
    assert flaws(PROJECT, CITATION, CHANGELOG, tags_of_this_commit()) == []


RELEASED = "# Changelog\n\n## 0.2.0 · 2026-12-24\n\n- More.\n\n## 0.1.0 · 2026-11-30\n"
CITED = {"version": "0.2.0", "date-released": "2026-12-24"}


@pytest.mark.parametrize(
    ("version", "citation", "changelog", "tags", "right"),
    [
        ("0.2.0", CITED, RELEASED, ["v0.2.0"], True),
        ("0.3.0.dev0", {"version": "0.3.0.dev0"}, f"{UNRELEASED}\n{RELEASED}", [], True),
        ("0.1.0", CITED | {"version": "0.1.0"}, RELEASED, [], False),
        ("0.2.0", {"version": "0.2.0"}, RELEASED, [], False),
        ("0.2.0", CITED | {"version": "0.1.0"}, RELEASED, [], False),
        ("0.2.0", CITED, RELEASED, ["v0.1.0"], False),
        ("0.2.0", CITED, f"{UNRELEASED}\n{RELEASED}", [], False),
        ("0.1.0.dev0", {"version": "0.1.0.dev0"}, f"{UNRELEASED}\n{RELEASED}", [], False),
        ("0.2.0", CITED, RELEASED.replace(" · 2026-11", ", 2026-11"), [], False),
    ],
)
def test_a_release_that_does_not_agree_would_be_seen(
    version: str, citation: dict[str, Any], changelog: str, tags: list[str], right: bool
) -> None:
    assert (flaws(version, citation, changelog, tags) == []) == right


@pytest.mark.parametrize(("before", "after"), [("", ""), ("title: ", "titel: "), ("family-names: Ko", "family: Ko")])
def test_the_citation_file_follows_its_schema(before: str, after: str, tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    file.write_text((ROOT / "CITATION.cff").read_text().replace(before, after))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format", file]
    assert subprocess.run(check, capture_output=True).returncode == (1 if before else 0)
