"""A report.json that somebody else wrote: a page without a foreign element, or one clear line. Also in chromium."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page as BrowserPage
from report_example import HOSTILE, example_report, skipped_rows, with_controls, with_text_everywhere
from report_page import OpenPage, open_everything
from test_cli import run
from test_report import HOSTILE_TEXTS, Page

from finf_core.errors import InputError
from finf_core.report.html import render_report
from tasks.purify import lines_to_remove
from tasks.read_report import as_written, read_report, render_again, report_summary

PAYLOADS = [
    *HOSTILE_TEXTS,
    "</noscript><script>window.pwned=1</script><noscript>",
    "</noscript><img src=x onerror=window.pwned=1>",
    '"></bdi><svg><animate onbegin=window.pwned=1 attributeName=x dur=1s>',
    "<style>*{display:none}</style><link rel=stylesheet href=http://127.0.0.1:1/x>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe><meta http-equiv=refresh content=0>",
    "<template><script>window.pwned=1</script></template><form action=/x><input autofocus onfocus=window.pwned=1>",
    "\x00\x1b]8;;http://x\x07link\x1b]8;;\x07\ud800\udfff\u202e\u2028",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",  # escaped once already: evidence is text before it is opened
]
LINKED = ["/data/", "https://127.0.0.1:1/", "file:///data/", "HTTP://x/\" onclick=window.pwned=1 y='", "javascript:"]
ELEMENTS = """() => [...document.querySelectorAll('*')].filter(e => !e.matches('.code-point')).map(
    e => e.tagName + ' ' + [...e.attributes].map(a => a.name).sort().join(' '))"""
LINKS = "() => [...document.querySelectorAll('[href]')].map(e => e.getAttribute('href'))"


def whole_report() -> dict[str, Any]:
    """Every part of the page is there."""
    report = with_controls(example_report(num_queries=2, num_leaked=1, rows_per_query=3))
    report["skipped_rows"] = skipped_rows(1)
    report["summary"]["num_skipped_rows"] = 1
    return report


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a report holds anything, containers included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    seen: set[Any] = set()
    for key, item in items:
        if not (isinstance(value, list) and (kind := type(item)) in seen):  # one of each kind stands for a list
            seen |= {kind} if isinstance(value, list) else set()
            yield from places_of(item, (*path, key))


def replaced(report: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    changed = copy.deepcopy(report)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def elements(html: str) -> set[str]:
    return {tag for tag, _ in Page(html).elements}


def test_text_in_any_place_of_a_report_json_is_an_error_or_harmless() -> None:
    report = whole_report()
    allowed = elements(render_report(report)) | {"span", "bdi", "p", "section", "details", "summary", "img"}
    refused = 0
    paths = list(places_of(report))
    assert len(paths) > 150
    for path in paths:
        try:
            with as_written("run"):
                page = Page(render_report(replaced(report, path, HOSTILE)))
        except InputError:
            refused += 1
            continue
        assert {tag for tag, _ in page.elements} <= allowed, path
        assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs), path
    assert 20 < refused < len(paths) - 20


WRONG: list[Any] = [None, [], {}, "x", -1, 10**400, 1e308, True, [[]], {"x": 1}]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong)[:10])
def test_a_wrong_value_in_any_place_is_one_error_for_every_reader(wrong: Any, tmp_path: Path) -> None:
    report = whole_report()
    readers: list[Callable[[dict[str, Any]], object]] = [
        lambda found: render_again(str(tmp_path), found),
        lambda found: report_summary(str(tmp_path), found),
        lambda found: list(lines_to_remove(found)),
    ]
    for path in places_of(report):
        changed = replaced(report, path, wrong)
        for read in readers:
            with suppress(InputError), as_written("run"):
                read(changed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"report"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"summary": ' + b"9" * 5000 + b"}",
        b"{}",
        b'{"queries": [{"query_id": 1}], "summary": {}, "verdict": {}}',
    ],
    ids=lambda data: data[:12].decode("latin-1"),
)
def test_a_file_that_is_no_report_is_one_line(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_bytes(data)
    for arguments in (("report", str(tmp_path)), ("diff", str(tmp_path), str(tmp_path))):
        if data == b"{}" and arguments[0] == "diff":
            continue
        assert run(monkeypatch, *arguments) == 2 or (arguments[0] == "diff" and b"queries" not in data), arguments
        [line] = capsys.readouterr().err.splitlines()
        assert "report.json is not as this version of finf writes it" in line or "the report lacks a key" in line
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_text_of_another_s_report_is_escaped_when_it_is_rendered_again(tmp_path: Path) -> None:
    report = with_text_everywhere(whole_report(), HOSTILE)
    (tmp_path / "report.json").write_text(json.dumps(report))
    render_again(str(tmp_path), read_report(str(tmp_path)))
    harmless = Page(render_report(with_text_everywhere(whole_report(), "harmless"))).shape()
    assert Page((tmp_path / "report.html").read_text()).shape() == harmless
    assert "<img" not in (tmp_path / "summary.md").read_text().replace("\\<", "")
    assert "<img" not in (tmp_path / "junit.xml").read_text()


def test_purify_removes_rows_of_the_run_s_own_shards_only() -> None:
    report = example_report(num_queries=1, num_leaked=1)
    shards = {row["shard"] for row in report["queries"][0]["top"]}
    assert list(lines_to_remove(report, sorted(shards)))
    with pytest.raises(ValueError, match="is no shard of the run"):
        list(lines_to_remove(report, ["another"]))


# --- in the browser ---


def linked_everywhere(text: str) -> dict[str, Any]:
    """Hostile text in every place, and shards whose names begin like something that a browser follows."""
    report = with_text_everywhere(whole_report(), text)
    rows = [row for query in report["queries"] for row in query["top"]]
    for index, row in enumerate(rows):
        row["shard"] = LINKED[index % len(LINKED)] + text
    return report


def opened(open_page: OpenPage, report: dict[str, Any]) -> BrowserPage:
    page = open_page(report)
    open_everything(page)
    page.wait_for_timeout(50)
    return page


def test_no_payload_makes_an_element_an_attribute_or_a_link_of_its_own(open_page: OpenPage) -> None:
    harmless = opened(open_page, linked_everywhere("harmless")).evaluate(ELEMENTS)
    assert len(harmless) > 200
    for payload in PAYLOADS:
        page = opened(open_page, linked_everywhere(payload))
        assert page.evaluate("typeof window.pwned") == "undefined", payload
        assert page.evaluate(ELEMENTS) == harmless, payload
        links = page.evaluate(LINKS)
        assert {link.partition(":")[0].lower() for link in links if not link.startswith("#")} == {
            "file",
            "http",
            "https",
        }
        assert not any(sign in link for link in links for sign in '<>"\0\x1b\u202e '), payload


def test_an_id_that_is_a_word_of_five_megabytes_is_cut_and_the_page_opens(open_page: OpenPage) -> None:
    report = whole_report()
    word = "x" * 5_000_000
    report["queries"][0]["query_id"] = report["queries"][0]["top"][0]["document_id"] = word
    page = opened(open_page, report)
    shown = page.locator(".asked h3 bdi").first.inner_text()
    assert shown == f"{'x' * 2000}… (5,000,000 characters)"
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
