"""The report page in a real browser: nothing runs but its own script, and every control does its job."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from report_example import HOSTILE, example_report, skipped_rows, with_text_everywhere

from finf_core.report.html import render_report

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail(
            "no chromium on PATH: install it with `apt-get install chromium`; the page is tested in a real browser"
        )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Open a report in a fresh profile; at the end, hold the page to asking for nothing and complaining of nothing."""
    contexts, requests, complaints = [], [], []
    file = tmp_path / "report.html"

    def opened(report: dict[str, Any], width: int = 1280, script: bool = True) -> Page:
        file.write_text(render_report(report), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert set(requests) == {file.as_uri()}
    assert complaints == []


def shown(page: Page, column: str) -> list[str]:
    cells: list[str] = page.eval_on_selector_all(
        f"tr.query-row:not([hidden]) > .cell-{column}", "cells => cells.map(cell => cell.textContent.trim())"
    )
    return cells


def header(page: Page, name: str) -> Locator:
    return page.get_by_role("columnheader").filter(has_text=name)


def center_x(locator: Locator) -> float:
    box = locator.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2


def open_everything(page: Page) -> None:
    page.eval_on_selector_all("details", "all => all.forEach(details => { details.open = true })")
    page.eval_on_selector_all(".more", "all => all.forEach(box => { box.checked = true })")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window, with nothing left undrawn off the screen."""
    page.eval_on_selector_all(".query-row", "rows => rows.forEach(r => { r.style.contentVisibility = 'visible' })")
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def test_hostile_text_is_shown_and_never_run(open_page: OpenPage) -> None:
    report = example_report(num_queries=2, num_leaked=1, rows_per_query=4)
    report["skipped_rows"] = skipped_rows(2)
    page = open_page(with_text_everywhere(report, HOSTILE))
    open_everything(page)
    page.wait_for_timeout(100)
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    for place in (".cell-query", ".asked h3", ".asked .excerpt", ".document", ".match .excerpt", ".place bdi"):
        assert page.locator(place).first.inner_text() == HOSTILE


def test_a_bidi_override_is_spelt_out_and_turns_nothing_round(open_page: OpenPage) -> None:
    report = example_report(num_queries=1, num_leaked=1)
    report["queries"][0]["query_id"] = "invoice\u202egpj.exe\x00"
    assert shown(open_page(report), "query") == ["invoice\\u202egpj.exe\\u0000"]


def test_a_click_on_a_header_sorts_and_a_second_click_turns_the_order(open_page: OpenPage) -> None:
    page = open_page(example_report())
    header(page, "targets").get_by_role("button").click()
    falling = [int(text) for text in shown(page, "targets")]
    header(page, "targets").get_by_role("button").click()
    rising = [int(text) for text in shown(page, "targets")]
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert len(set(rising)) > 2


def test_enter_on_a_header_sorts_query_ids_by_their_numbers(open_page: OpenPage) -> None:
    page = open_page(example_report())
    header(page, "query").get_by_role("button").press("Enter")
    assert shown(page, "query") == [f"HumanEval/{index}" for index in range(64)]


def test_exactly_one_header_says_how_the_table_is_sorted(open_page: OpenPage) -> None:
    page = open_page(example_report())
    sorted_headers = page.locator("th[aria-sort]")
    assert sorted_headers.all_inner_texts()[0].startswith("max mirror ratio")
    assert sorted_headers.get_attribute("aria-sort") == "descending"
    header(page, "best row").get_by_role("button").click()
    assert sorted_headers.count() == 1
    assert sorted_headers.get_attribute("aria-sort") == "ascending"
    assert sorted_headers.inner_text().startswith("best row")


@pytest.mark.parametrize("clicks", [1, 2])
def test_unknown_numbers_are_sorted_last_in_both_orders(open_page: OpenPage, clicks: int) -> None:
    report = example_report(num_queries=5, num_leaked=2)
    report["queries"][1]["max_mirror_ratio"] = None
    page = open_page(report)
    for _ in range(clicks):
        header(page, "max mirror ratio").get_by_role("button").click()
    assert shown(page, "ratio")[-1] == "–"


def test_the_filter_finds_query_ids_and_documents_of_any_row(open_page: OpenPage) -> None:
    report = example_report()
    report["queries"][50]["top"][17]["document_id"] = "Needle/1"
    page = open_page(report)
    box = page.get_by_role("searchbox")
    box.fill("humaneval/63")
    assert shown(page, "query") == ["HumanEval/63"]
    box.fill("needle")
    assert shown(page, "query") == ["HumanEval/50"]
    assert page.locator("#shown").inner_text() == "1 of 64"
    box.fill("no such thing")
    assert page.get_by_text("No query matches the filter.").is_visible()
    box.fill("")
    assert len(shown(page, "query")) == 64


def test_only_leaked_hides_the_others_and_goes_together_with_the_filter(open_page: OpenPage) -> None:
    page = open_page(example_report())
    page.get_by_label("only leaked").check()
    assert set(shown(page, "verdict")) == {"leaked"}
    assert len(shown(page, "verdict")) == 40
    page.get_by_role("searchbox").fill("HumanEval/3")
    assert len(shown(page, "query")) == 11


def test_a_query_opens_by_keyboard_to_its_text_and_its_rows(open_page: OpenPage) -> None:
    page = open_page(example_report())
    first = page.locator("tr.query-row").first
    first.locator("summary").first.press("Enter")
    assert first.locator(".asked .excerpt").is_visible()
    assert "shard s3://bucket/corpus/" in first.locator(".match").first.inner_text().replace("\n", " ")
    assert not first.locator(".rest .match").first.is_visible()


def test_a_click_anywhere_on_the_line_opens_the_query(open_page: OpenPage) -> None:
    page = open_page(example_report())
    row = page.locator("tr.query-row").nth(1)
    row.scroll_into_view_if_needed()
    box = row.locator(".cell-query").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert row.locator(".asked").is_visible()


def test_a_long_excerpt_is_clipped_until_asked_for(open_page: OpenPage) -> None:
    report = example_report(num_queries=1, num_leaked=1)
    report["queries"][0]["text_excerpt"] = "\n".join(f"line {index}" for index in range(60))
    page = open_page(report)
    page.locator("summary").first.click()
    excerpt = page.locator(".asked .excerpt")
    clipped = excerpt.evaluate("element => element.clientHeight")
    page.locator(".asked .more").press(" ")
    whole = excerpt.evaluate("element => [element.clientHeight, element.scrollHeight]")
    assert clipped < 400 < whole[0] == whole[1]
    assert page.locator(".asked .more-label").inner_text() == "show less"


def test_the_line_of_an_exact_copy_stands_at_one_on_the_screen(open_page: OpenPage) -> None:
    page = open_page(example_report())
    ticks = page.locator(".histogram .x-tick")
    zero, half = (center_x(ticks.get_by_text(label, exact=True)) for label in ("0.0", "0.5"))
    assert half - zero > 100
    assert center_x(page.locator(".histogram line.exact-copy")) == pytest.approx(zero + 2 * (half - zero), abs=1.5)
    assert center_x(page.locator(".histogram line.threshold")) == pytest.approx(half, abs=1.5)


@pytest.mark.parametrize("width", [320, 390, 900])
def test_the_page_never_scrolls_sideways(open_page: OpenPage, width: int) -> None:
    report = example_report(num_queries=6, num_leaked=3)
    report["skipped_rows"] = skipped_rows(3)
    page = open_page(report, width=width)
    open_everything(page)
    assert overflow(page) <= 0


@pytest.mark.parametrize("text", ["x" * 3000, HOSTILE * 20, "שלום " * 300, "Z͑ͫ̓ͪ̂" * 400])
def test_endless_words_stay_inside_a_narrow_page(open_page: OpenPage, text: str) -> None:
    report = example_report(num_queries=2, num_leaked=1, rows_per_query=3)
    report["skipped_rows"] = skipped_rows(3)
    page = open_page(with_text_everywhere(report, text), width=390)
    open_everything(page)
    assert overflow(page) <= 0
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.eval_on_selector_all(".excerpt, .match, .asked, .evidence", cut) == 0


def test_without_scripts_everything_can_be_read_and_no_dead_control_is_shown(open_page: OpenPage) -> None:
    page = open_page(example_report(), script=False)
    assert not page.get_by_role("searchbox").is_visible()
    assert page.get_by_role("columnheader").get_by_role("button").count() == 0
    page.locator("tr.query-row summary").first.click()
    assert page.locator("tr.query-row").first.locator(".match .excerpt").first.is_visible()
    assert page.locator("tr.query-row").count() == 64
