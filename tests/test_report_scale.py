"""The page of 10,000 queries and 100,000 rows does in a real browser what the page of a few does."""

from typing import Any

import pytest
from report_example import example_report
from report_page import OpenPage, header, shown

pytestmark = pytest.mark.slow


def large_report() -> dict[str, Any]:
    """As a scan keeps it: text for leaked queries only."""
    report = example_report(num_queries=10_000, num_leaked=1_000, num_rows=1_000_000, rows_per_query=10)
    for query in report["queries"]:
        for row in query["top"]:
            row["text_excerpt"] = row["text_excerpt"] if query["leaked"] and row["rank"] <= 3 else None
    report["queries"][7777]["top"][9]["document_id"] = "needle/1"
    return report


def test_ten_thousand_queries_open_sort_filter_and_are_found(open_page: OpenPage) -> None:
    page = open_page(large_report())
    assert page.locator("tr.query-row").count() == 10_000
    assert page.locator(".match, .line").count() == 0  # a hundred thousand rows, all inert

    page.get_by_role("searchbox").fill("needle")
    assert shown(page, "query") == ["HumanEval/7777"]
    row = page.locator("tr.query-row:not([hidden])")
    row.locator("summary").first.press("Enter")
    row.locator(".match").first.wait_for()
    assert row.locator(".document").last.text_content() == "needle/1"
    page.get_by_role("searchbox").fill("")

    header(page, "query").get_by_role("button").click()
    assert shown(page, "query") == [f"HumanEval/{index}" for index in range(10_000)]
    page.locator(".tile.copied_not_learned").click()
    assert len(shown(page, "query")) == 250
    page.evaluate("location.hash = '#query-10000-2'")
    page.locator("#query-10000-2").wait_for()
    assert page.locator("#query-10000-2").evaluate("row => Math.abs(row.getBoundingClientRect().top) < innerHeight")
