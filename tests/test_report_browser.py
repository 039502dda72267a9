"""The report page in a real browser: nothing runs but its own script, and every control does its job."""

import pytest
from playwright.sync_api import Locator
from report_example import HOSTILE, example_report, skipped_rows, with_text_everywhere, with_units_set_aside
from report_page import OpenPage, header, open_everything, overflow, shown


def center_x(locator: Locator) -> float:
    box = locator.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2


@pytest.mark.parametrize("script", [True, False])
def test_hostile_text_is_shown_and_never_run(open_page: OpenPage, script: bool) -> None:
    report = example_report(num_queries=2, num_leaked=1, rows_per_query=4)
    report["skipped_rows"] = skipped_rows(2)
    report = with_units_set_aside(report)
    page = open_page(with_text_everywhere(report, HOSTILE), script=script)
    open_everything(page)
    page.wait_for_timeout(100)
    assert page.evaluate("typeof window.pwned") == "undefined"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert (
        page.locator(".match .command").first.inner_text()
        == f"finf row '{HOSTILE}' {report['queries'][0]['top'][0]['row']}"
    )
    for place in (".cell-query", ".asked h3 bdi", ".asked .excerpt", ".document", ".match .excerpt", ".facts bdi"):
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
    assert sorted_headers.all_inner_texts()[0].startswith("outcome")
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


def test_the_filter_finds_query_ids_and_what_is_known_of_any_row_though_no_evidence_was_opened(
    open_page: OpenPage,
) -> None:
    report = example_report()
    report["queries"][50]["top"][17] |= {"document_id": "Needle/1", "source": "haystack"}
    page = open_page(report)
    box = page.get_by_role("searchbox")
    box.fill("humaneval/63")
    assert shown(page, "query") == ["HumanEval/63"]
    for text in ("needle", "HAYSTACK"):
        box.fill(text)
        assert shown(page, "query") == ["HumanEval/50"]
    assert page.locator("#shown").inner_text() == "1 of 64"
    box.fill("no such thing")
    assert page.get_by_text("No query matches the filter.").is_visible()
    box.fill("")
    assert len(shown(page, "query")) == 64


def test_outcomes_are_filtered_alone_and_together_with_the_text(open_page: OpenPage) -> None:
    page = open_page(example_report())
    choice = page.get_by_label("Filter by outcome")
    choice.select_option("rephrased, learned")
    assert shown(page, "outcome") == ["rephrased, learned"] * 10
    choice.select_option("all leaked")
    assert len(shown(page, "outcome")) == 40
    assert "neither" not in shown(page, "outcome")
    page.get_by_role("searchbox").fill("HumanEval/3")
    assert len(shown(page, "query")) == 11


def test_a_tile_shows_the_queries_it_counts_and_all_when_pressed_again(open_page: OpenPage) -> None:
    page = open_page(example_report())
    for key, num in example_report()["summary"]["outcomes"].items():
        button = page.locator(f".tile.{key}").get_by_role("button")
        assert button.inner_text().split()[0] == str(num)
        button.press("Enter")
        assert len(shown(page, "query")) == num
        assert page.locator("[aria-pressed=true]").count() == 1
        assert page.locator("#queries-title").evaluate("title => title.getBoundingClientRect().top < innerHeight")
    page.locator(".tile.neither").click()
    assert len(shown(page, "query")) == 64


def test_a_query_opens_by_keyboard_to_its_text_and_its_rows(open_page: OpenPage) -> None:
    page = open_page(example_report())
    first = page.locator("tr.query-row").first
    first.locator("summary").first.press("Enter")
    first.locator(".asked .excerpt").wait_for()
    assert first.locator(".match .command").first.inner_text().startswith("finf row s3://bucket/corpus/shard-")
    assert not first.locator(".rest .match").first.is_visible()


def test_a_click_anywhere_on_the_line_opens_the_query(open_page: OpenPage) -> None:
    page = open_page(example_report())
    row = page.locator("tr.query-row").nth(1)
    row.scroll_into_view_if_needed()
    box = row.locator(".cell-query").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    row.locator(".asked").wait_for()


def test_a_long_excerpt_is_clipped_until_asked_for(open_page: OpenPage) -> None:
    report = example_report(num_queries=1, num_leaked=1)
    report["queries"][0] |= {"text_excerpt": "\n".join(f"line {index}" for index in range(60)), "top": []}
    page = open_page(report)
    page.locator("summary").first.click()
    excerpt = page.locator(".asked .excerpt")
    clipped = excerpt.evaluate("element => element.clientHeight")
    page.locator(".asked .more").press(" ")
    whole = excerpt.evaluate("element => [element.clientHeight, element.scrollHeight]")
    assert clipped < 450 < whole[0] == whole[1]
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


def test_an_address_opens_its_query_and_its_row(open_page: OpenPage) -> None:
    page = open_page(example_report(), anchor="#query-40")
    assert page.locator("details[open]").count() == 1
    assert page.locator("#query-40 .asked").is_visible()
    page.evaluate("location.hash = '#query-20-3'")
    page.locator("#query-20 .match").first.wait_for()
    assert page.locator("#query-20-3").evaluate("row => row.getBoundingClientRect().top") == pytest.approx(112, abs=40)


def test_an_address_opens_a_query_that_the_filter_hides_and_an_unknown_one_opens_none(open_page: OpenPage) -> None:
    page = open_page(example_report())
    page.get_by_role("searchbox").fill("no such thing")
    page.evaluate("location.hash = '#query-9'")
    page.locator("#query-9 .asked .excerpt").wait_for()
    page.evaluate("location.hash = '#query-99999-1'")
    assert page.locator("tbody details[open]").count() == 1


def test_evidence_is_text_until_it_is_opened(open_page: OpenPage) -> None:
    page = open_page(example_report())
    assert page.locator(".match").count() == 0
    page.locator("tr.query-row summary").nth(2).press("Enter")
    page.locator(".match").first.wait_for()
    assert page.locator(".query-row").nth(2).locator(".match").count() == 20
    assert page.locator(".match").count() == 20


def test_shared_words_and_heat_can_be_shown_apart(open_page: OpenPage) -> None:
    page = open_page(example_report())
    page.locator("tr.query-row summary").first.click()
    shared, hot = page.locator(".match mark.shared").first, page.locator(".match [class^=hot]").first
    line, ground = "e => getComputedStyle(e).textDecorationLine", "e => getComputedStyle(e).backgroundColor"
    seen = {}
    for choice in ("both", "same words", "heat"):
        page.get_by_label(choice, exact=True).check()
        seen[choice] = (shared.evaluate(line), hot.evaluate(ground))
    heat = seen["both"][1]
    assert seen["heat"] == ("none", heat)
    assert seen["both"][0] == seen["same words"][0] == "underline"
    assert seen["same words"][1] != heat


def test_pointing_at_a_row_leaves_only_its_own_words_marked_in_the_query(open_page: OpenPage) -> None:
    report = example_report(num_queries=1, num_leaked=1, rows_per_query=3)
    top = report["queries"][0]["top"]
    for row, span in zip(top, ([0, 3, 0, 3], [4, 9, 0, 5], [0, 3, 0, 3]), strict=True):
        row["evidence"] = top[0]["evidence"] | {"spans": [span]}
    page = open_page(report)
    page.locator(".query-row summary").click()
    page.locator(".match").first.wait_for()
    marked = "all => all.filter(e => getComputedStyle(e).textDecorationLine == 'underline').map(e => e.textContent)"
    assert page.eval_on_selector_all(".asked mark", marked) == ["def", "runni"]
    page.locator(".match.rank-2 .excerpt").hover()
    assert page.eval_on_selector_all(".asked mark", marked) == ["runni"]


def test_the_first_stop_of_the_keyboard_skips_to_the_queries(open_page: OpenPage) -> None:
    page = open_page(example_report())
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the queries"
    assert page.locator(":focus").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#queries-title").evaluate("title => title.getBoundingClientRect().top") < 100


@pytest.mark.parametrize("kind", ["over", "under"])
def test_a_row_stands_on_the_strip_where_the_labels_put_its_ratio(open_page: OpenPage, kind: str) -> None:
    report = example_report(num_queries=1, num_leaked=1, rows_per_query=1)
    ratio = {"over": 0.9, "under": 0.1}[kind]
    report["queries"][0]["top"][0]["mirror_ratio"] = ratio
    page = open_page(report)
    page.locator("summary").first.click()
    box = page.locator(".strip").bounding_box()
    assert box is not None
    labels = page.locator("#strip-null text[text-anchor=middle]")  # drawn once, hidden, and shown in each strip
    shares = {label.inner_html(): float((label.get_attribute("x") or "").rstrip("%")) for label in labels.all()}
    zero, one = (box["x"] + box["width"] * shares[text] / 100 for text in ("0", "1, exact copy"))
    assert center_x(page.locator(f".strip path.{kind}")) == pytest.approx(zero + ratio * (one - zero), abs=1.5)
