"""The outcome for a build: `summary.md` and `junit.xml`."""

import xml.etree.ElementTree as ET

from report_example import HOSTILE, example_report, with_controls, with_units_set_aside

from finf_core.report.summary import MOST_LINES, render_junit, render_markdown


def test_every_query_is_a_case_and_every_leaked_one_fails() -> None:
    report = with_controls(example_report(num_queries=9, num_leaked=4))
    suite = ET.fromstring(render_junit(report))
    assert (suite.get("tests"), suite.get("failures")) == ("9", "4")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [query["query_id"] for query in report["queries"]]
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failed == [query["query_id"] for query in report["queries"] if query["leaked"]]
    [message] = {case.find("failure").get("message", "") for case in cases[:1]}  # type: ignore[union-attr]
    assert report["queries"][0]["top"][0]["document_id"] in message
    assert message.startswith("copied, learned: max mirror ratio")


def test_the_page_names_the_surest_leaks_first_and_no_more_than_a_person_reads() -> None:
    report = with_controls(example_report(num_queries=80, num_leaked=60))
    for place, query in enumerate(report["queries"]):
        query["q_value"] = 0.001 * (100 - place) if query["leaked"] else 0.9
    text = render_markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("| HumanEval")]
    assert len(rows) == MOST_LINES
    assert rows[0].startswith("| HumanEval/58 | copied, learned | ")
    outcomes = [row.split(" | ")[1] for row in rows]
    assert outcomes == ["copied, learned"] * 30 + ["rephrased, learned"] * 15 + ["copied, not learned"] * 5
    assert "30 copied, learned; 15 rephrased, learned; 15 copied, not learned; 20 neither." in text
    assert "… and 10 more" in text
    assert text.startswith("## 60 of 80 queries leaked")
    assert "q-value is at most 0.05" in text


def test_a_clean_run_has_no_table_and_no_failure() -> None:
    report = example_report(num_queries=3, num_leaked=0)
    assert "|" not in render_markdown(report)
    assert ET.fromstring(render_junit(report)).findall("*/failure") == []


def test_hostile_ids_are_text_and_nothing_else() -> None:
    report = example_report(num_queries=1, num_leaked=1)
    hostile = HOSTILE + "|a`b`[x](javascript:1)\x1b[31m\x00\ufffe\nnew line"
    report["queries"][0]["query_id"] = report["queries"][0]["top"][0]["document_id"] = hostile
    page = render_markdown(report)
    assert len([line for line in page.splitlines() if line.startswith("| ")]) == 2  # head and one row
    assert "<script" not in page.replace("\\<", "")
    assert "](" not in page.replace("\\]\\(", "")
    assert not set(page) & {"\x1b", "\x00"}
    case = ET.fromstring(render_junit(report)).find("testcase")
    assert case is not None
    assert case.get("name", "").startswith(HOSTILE)


def test_rows_that_were_set_aside_are_an_error_of_the_suite_and_stand_in_the_page() -> None:
    report = with_units_set_aside(example_report(num_queries=3, num_leaked=0))
    suite = ET.fromstring(render_junit(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "0", "1")
    assert len(suite.findall("testcase")) == 4
    assert len(suite.findall("testcase/error")) == 1
    assert "Complete except for 128 rows" in render_markdown(report)
    assert "Complete except for" not in render_markdown(example_report())
