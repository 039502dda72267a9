"""A report in a real browser: started once per test file, every page in a fresh profile and held to silence."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tasks.publish_report import renderers

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 120_000  # a busy machine is no failure
OpenPage = Callable[..., Page]


@contextmanager
def running_browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail(
            "no chromium on PATH: install it with `apt-get install chromium`; the page is tested in a real browser"
        )
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield launched
        launched.close()


@contextmanager
def page_opener(browser: Browser, folder: Path) -> Iterator[OpenPage]:
    """Opens reports; at the end, the pages must have asked for nothing and complained of nothing."""
    contexts, requests, complaints = [], [], []
    file = folder / "report.html"

    def opened(report: dict[str, Any], width: int = 1280, script: bool = True, anchor: str = "") -> Page:
        file.write_text(renderers(report)["report.html"](report), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri() + anchor)
        return page

    yield opened
    for context in contexts:
        context.close()
    asked = {url.partition("#")[0] for url in requests if not url.startswith("data:")}  # a picture in the page itself
    assert asked == {file.as_uri()}
    assert complaints == []


def shown(page: Page, column: str) -> list[str]:
    cells: list[str] = page.eval_on_selector_all(
        f"tr.query-row:not([hidden]) > .cell-{column}", "cells => cells.map(cell => cell.textContent.trim())"
    )
    return cells


def header(page: Page, name: str) -> Locator:
    return page.get_by_role("columnheader").filter(has_text=name)


def open_everything(page: Page) -> None:
    """Every query, and then what is folded away in it."""
    for folded in ("tbody > tr details", "details"):
        page.eval_on_selector_all(folded, "all => all.forEach(details => { details.open = true })")
        expect(page.locator("details[open] > noscript:not(:has(*))")).to_have_count(0)  # text no more
    page.eval_on_selector_all(".more", "all => all.forEach(box => { box.checked = true })")


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window, with nothing left undrawn off the screen."""
    page.eval_on_selector_all(".query-row", "rows => rows.forEach(r => { r.style.contentVisibility = 'visible' })")
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width
