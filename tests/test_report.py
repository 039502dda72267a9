"""The report page as text: what it says, and what hostile text cannot make it say."""

import base64
import hashlib
import itertools
import math
import re
import shlex
import sys
import unicodedata
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_example import (
    HOSTILE,
    example_report,
    skipped_rows,
    with_controls,
    with_text_everywhere,
    with_units_set_aside,
)

from finf_core.errors import InputError
from finf_core.report.histogram_svg import Histogram, histogram_svg
from finf_core.report.html import headline, render_report
from finf_core.report.number_text import date_text, decimal_text, seconds_text
from finf_core.report.outcomes import OUTCOMES
from finf_core.report.visible import visible_markup, visible_text

JOINERS = "\u200c\u200d"
HOSTILE_TEXTS = [
    HOSTILE,
    "</script><script>alert(1)</script>",
    "</style></title></textarea></pre></code><svg onload=alert(1)>",
    "\" onmouseover=alert(1) x=\"' onfocus=alert(1) y='",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}${7*7}&lt;b&gt;&#60;b&#62;",
    "<!--",
    "]]><plaintext>",
    "\x1b[31mred\x1b[0m \x00 \u202egnp.exe\u2069 \ud800 \ufeff",
]


class Page(HTMLParser):
    """What a browser would build from the page: elements, attribute values, text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw = {"style": "", "script": ""}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.raw:
            self.raw[self.cdata_elem] += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attrs)) for tag, attrs in self.elements if attrs.get("class") != "code-point"]


def hidden_characters() -> list[str]:
    every = (chr(code_point) for code_point in range(sys.maxunicode + 1))
    return [sign for sign in every if unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


def test_every_invisible_or_commanding_character_of_unicode_is_spelt_out() -> None:
    left = {sign for sign in hidden_characters() if sign in visible_text(f"a{sign}b")}
    assert left == {"\n", "\t", *JOINERS}


def test_the_token_names_the_code_point() -> None:
    assert visible_text("\u202egnp\x1b[1m\x00\U000e0041\ud800") == r"\u202egnp\u001b[1m\u0000\U000e0041\ud800"


def test_a_windows_newline_is_a_newline_and_a_lone_return_is_shown() -> None:
    assert visible_text("a\r\nb\rc") == "a\nb\\u000dc"


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M", "Zs"], max_codepoint=0x10FF)))
def test_text_that_hides_nothing_is_left_alone(text: str) -> None:
    assert visible_text(text) == text.replace("\u115f", r"\u115f").replace("\u1160", r"\u1160").replace(
        "\u034f", r"\u034f"
    )


def test_a_spelt_out_character_differs_from_the_same_letters_in_the_text() -> None:
    assert visible_markup("\u202e") != visible_markup(r"\u202e")


def test_markup_is_escaped_where_characters_are_spelt_out() -> None:
    assert Page(visible_markup("<i>\x00</i>")).elements == [("span", {"class": "code-point"})]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_adds_no_element_and_no_attribute(text: str) -> None:
    harmless = Page(render_report(with_text_everywhere(report_with_everything(), "harmless")))
    hostile = Page(render_report(with_text_everywhere(report_with_everything(), text)))
    assert hostile.shape() == harmless.shape()
    assert hostile.raw == harmless.raw


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_is_shown_to_the_letter_with_hidden_characters_spelt_out(text: str) -> None:
    report = report_with_everything() | {"spec": {}}  # JSON escapes quotes in its own way, a shell in its
    report["places"] |= {"shard": [], "source": [], "date": []}  # shown without the folder that names share
    harmless = Page(render_report(with_text_everywhere(report, "harmless")))
    hostile = Page(render_report(with_text_everywhere(report, text)))
    assert harmless.text.count("harmless") > 50
    shown = hostile.text.replace(visible_text(shlex.quote(text)), visible_text(text))
    assert shown.count(visible_text(text)) == harmless.text.count("harmless")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_the_page_can_be_written_as_utf_8_and_holds_no_raw_hidden_character(text: str) -> None:
    page = render_report(with_text_everywhere(report_with_everything(), text)).encode("utf-8").decode("utf-8")
    assert not set(page) & (set(hidden_characters()) - {"\n", "\t"})


def test_keys_of_open_mappings_are_escaped_too() -> None:
    report = report_with_everything()
    report["spec"] = {HOSTILE: {HOSTILE: 1}}
    report["versions"] = {HOSTILE: "1.0"}
    report["inputs"] = {HOSTILE: {"path": "x", "digest": "y"}}
    page = Page(render_report(report))
    assert page.text.count(HOSTILE) == 4
    assert "img" not in {tag for tag, _ in page.elements}


def test_the_page_asks_for_nothing_and_carries_no_inline_handler_or_style() -> None:
    report = with_text_everywhere(report_with_everything(), "javascript:alert(1)")
    for tag, attrs in Page(render_report(report)).elements:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "audio", "video", "image"}
        assert not {name for name in attrs if name.startswith("on")} | (
            set(attrs) & {"style", "src", "srcset", "action"}
        )
        assert (attrs.get("href") or "#").startswith("#")


def test_the_policy_names_the_hashes_of_the_style_and_the_script_in_the_page() -> None:
    page = Page(render_report(example_report()))
    policies = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    policy = dict(part.strip().split(" ", 1) for part in (policies[0] or "").split(";"))
    assert len(policies) == 1
    assert [tag for tag, _ in page.elements].count("script") == [tag for tag, _ in page.elements].count("style") == 1
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"


@pytest.mark.parametrize(
    ("num_leaked", "num_queries", "sentence"),
    [
        (40, 64, "40 of 64 queries leaked"),
        (1, 1, "1 of 1 query leaked"),
        (0, 1200, "No leak found in 1,200 queries"),
    ],
)
def test_the_headline_is_one_sentence(num_leaked: int, num_queries: int, sentence: str) -> None:
    assert headline({"num_leaked": num_leaked, "num_queries": num_queries}) == sentence


def test_the_head_says_name_fingerprint_date_outcome_rule_and_the_honest_note() -> None:
    text = Page(render_report(example_report())).text
    for part in (
        "demo",
        "3f9a1c27e0b8",
        "22 November 2026, 12:00 UTC",
        "40 of 64 queries leaked",
        "leaked when the largest mirror ratio is at least 0.50",
        "no error rate is claimed",
    ):
        assert part in text


def test_q_values_and_controls_are_shown_when_there_are_controls_and_only_then() -> None:
    plain = Page(render_report(example_report())).text
    assert "q-value" not in plain
    judged = Page(render_report(with_controls(example_report(num_queries=4, num_leaked=2))))
    for part in ("q-value", "120", "controls", "0.017", "0.8"):
        assert part in judged.text, part
    strokes = [attrs for tag, attrs in judged.elements if tag == "line" and attrs["class"] == "control"]
    assert len(strokes) == 120


def query_ids(page: Page) -> list[str | None]:
    """In the order of the table."""
    titles = [
        attrs["title"] for tag, attrs in page.elements if tag == "bdi" and "title" in attrs and "class" not in attrs
    ]
    return titles[::2]  # every other one is the best row's


def test_the_worst_outcome_stands_first_then_the_surest_then_the_largest_ratio_and_unknown_ones_last() -> None:
    report = example_report(num_queries=6, num_leaked=0)
    lines = [
        ("neither", 0.9, None),
        ("neither", 0.01, None),
        ("neither", 0.01, 0.1),
        ("neither", 0.01, 0.2),
        ("copied_not_learned", None, 0.1),
        ("rephrased_learned", 0.04, 0.1),
    ]
    for query, (outcome, q_value, ratio) in zip(report["queries"], lines, strict=True):
        query |= {"outcome": outcome, "q_value": q_value, "max_mirror_ratio": ratio}
    page = Page(render_report(report))
    assert query_ids(page) == [f"HumanEval/{index}" for index in (5, 4, 3, 2, 1, 0)]
    assert [attrs["aria-sort"] for tag, attrs in page.elements if tag == "th" and "aria-sort" in attrs] == [
        "descending"
    ]


def test_every_number_may_be_unknown() -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        if isinstance(value, list):
            return [emptied(item) for item in value]
        return None if isinstance(value, float) else value

    report = example_report(num_queries=2, num_leaked=1)
    histogram = report["histogram"]
    page = Page(render_report(emptied(report) | {"histogram": histogram}))
    assert "None" not in page.text
    assert "nan" not in page.text


def test_rows_without_a_document_id_show_a_dash() -> None:
    report = example_report(num_queries=1, num_leaked=1, rows_per_query=1)
    report["queries"][0]["top"][0]["document_id"] = None
    assert [attrs for tag, attrs in Page(render_report(report)).elements if attrs.get("class") == "document"] != []
    assert "None" not in Page(render_report(report)).text


def test_a_query_without_rows_says_so() -> None:
    report = example_report(num_queries=1, num_leaked=0)
    report["queries"][0]["top"] = []
    assert "No row was kept for this query." in Page(render_report(report)).text


def test_rows_that_reach_the_threshold_are_never_folded_away() -> None:
    report = example_report(num_queries=1, num_leaked=1)
    for row in report["queries"][0]["top"][:7]:
        row["mirror_ratio"] = 0.5
    assert "13 more rows" in Page(render_report(report)).text


def test_an_excerpt_keeps_its_first_blank_line() -> None:
    report = example_report(num_queries=1, num_leaked=0, rows_per_query=1)
    report["queries"][0] |= {"text_excerpt": "\n  indented", "context_characters": 0}
    assert "<code>\n  indented</code>" in render_report(report)


def test_rows_that_were_set_aside_are_named_with_the_reason_and_what_to_do() -> None:
    text = Page(render_report(with_units_set_aside(example_report()))).text
    assert text.index("Complete except for 128 rows that nobody could score.") < text.index("Copied and learned")
    assert "s3://bucket/corpus/shard-00003.parquet" in text
    assert "512 to 639" in text
    assert "5 actors died while they worked on it" in text
    assert text.count("finf scan CONFIG --retry-quarantined") == 2  # in the next steps, too
    assert "Complete except for" not in Page(render_report(example_report())).text


def test_only_the_first_skipped_rows_are_listed_but_all_are_counted() -> None:
    report = example_report()
    report["skipped_rows"] = skipped_rows(1200)
    report["summary"]["num_skipped_rows"] = 1200
    text = Page(render_report(report)).text
    assert text.count("text is empty") == 50
    assert "1,200 rows of the corpus could not be scored; the first 50 are listed." in text


def test_every_outcome_is_counted_and_says_what_it_means_and_what_to_do() -> None:
    report = example_report()
    text = Page(render_report(report)).text
    assert len(report["summary"]["outcomes"]) == 4
    for key, num in report["summary"]["outcomes"].items():
        outcome = OUTCOMES[key]
        assert f"{num} {outcome.title}" in text
        assert outcome.meaning in text
        assert outcome.action in text


def test_a_query_says_what_its_outcome_means_beside_its_text() -> None:
    for place, outcome in enumerate(("copied_learned", "rephrased_learned", "copied_learned", "copied_not_learned")):
        report = example_report(num_queries=place + 1, num_leaked=place + 1)
        report["queries"] = report["queries"][-1:]
        assert Page(render_report(report)).text.count(OUTCOMES[outcome].meaning) == 2  # and in the overview


def test_places_name_their_rows_and_queries_and_say_their_folder_once() -> None:
    report = example_report(num_queries=1, num_leaked=0, rows_per_query=1)
    shards = [f"s3://bucket/corpus/part/{index}.parquet" for index in range(9)]
    report["places"] = {
        "shard": [{"name": name, "num_rows": 5000, "num_hits": 12, "num_queries": 1} for name in shards],
        "source": [{"name": "web", "num_rows": None, "num_hits": 1, "num_queries": 2}],
        "date": [],
        "shard_more": 1234,
        "source_more": 0,
        "date_more": 0,
    }
    text = Page(render_report(report)).text
    for part in (
        "By shard in s3://bucket/corpus/part/",
        "8.parquet  12 rows of 5,000, 1 query",
        "web  1 row, 2 queries",
        "1,237 more",
        "1,234 not listed",
    ):
        assert part in " ".join(text.replace("\n", " ").split(" ")), part
    assert text.count("s3://bucket/corpus/part/") == 1
    assert "By date" not in text


def test_the_cost_is_told_and_passes_only_where_they_are_known() -> None:
    report = example_report(num_queries=1, num_leaked=0)
    report["summary"]["cost"] = {
        "actor_seconds": 7500.0,
        "tokens_per_actor_second": 54012.7,
        "forward_equivalents": 2.94,
    }
    text = Page(render_report(report)).text
    for part in ("2 h 5 min", "54,013", "2.9", "passes over the corpus"):
        assert part in text
    report["summary"]["cost"]["forward_equivalents"] = None
    assert "passes over the corpus" not in Page(render_report(report)).text


def test_a_shard_is_a_link_where_a_browser_can_follow_it_and_each_row_has_a_command() -> None:
    report = example_report(num_queries=1, num_leaked=1, rows_per_query=3)
    for row, shard in zip(
        report["queries"][0]["top"], ("s3://b/0.parquet", "/data/my 1.parquet", "http://h/2"), strict=True
    ):
        row |= {"shard": shard, "row": 7}
    page = Page(render_report(report))
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and not (attrs["href"] or "").startswith("#")]
    assert links == ["file:///data/my%201.parquet", "http://h/2"]
    for command in ("finf row s3://b/0.parquet 7", "finf row '/data/my 1.parquet' 7", "finf row http://h/2 7"):
        assert command in page.text


def test_evidence_shows_the_part_of_the_row_and_where_it_stands() -> None:
    report = example_report(num_queries=1, num_leaked=1, rows_per_query=1)
    row = report["queries"][0]["top"][0]
    row["evidence"] |= {"text": "the part", "first_character": 1000, "num_characters": 25_000}
    text = Page(render_report(report)).text
    assert "the part" in text
    assert "1,001 to 1,008 of 25,000" in text
    assert row["text_excerpt"] not in text.replace(report["queries"][0]["text_excerpt"], "")


def test_rows_with_evidence_are_never_folded_away() -> None:
    report = example_report(num_queries=1, num_leaked=1)
    top = report["queries"][0]["top"]
    top[5]["evidence"] = top[0]["evidence"]
    assert "14 more rows" in Page(render_report(report)).text


def test_a_row_without_any_text_takes_less_than_half_a_kilobyte() -> None:
    def size(rows_per_query: int) -> int:
        report = example_report(num_queries=1, num_leaked=0, rows_per_query=rows_per_query)
        for row in report["queries"][0]["top"]:
            row |= {"text_excerpt": None, "evidence": None}
        return len(render_report(report))

    assert (size(40) - size(20)) / 20 < 500


def test_evidence_is_inside_of_noscript_and_nothing_else_is() -> None:
    page = render_report(example_report(num_queries=2, num_leaked=1))
    inert = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert len(inert) == 2
    assert all(part.strip().startswith('<div class="evidence">') and part.strip().endswith("</div>") for part in inert)
    assert "<pre" not in re.sub(
        r"<noscript>.*?</noscript>", "", page.partition("What this run was")[0], flags=re.DOTALL
    )


def test_nothing_is_said_about_skipped_rows_when_there_are_none() -> None:
    assert "Skipped rows" not in Page(render_report(example_report())).text


@pytest.mark.parametrize("key", ["queries", "histogram", "verdict", "versions", "places"])
def test_a_report_that_lacks_a_key_is_refused_by_the_name_of_the_key(key: str) -> None:
    report = example_report()
    del report[key]
    with pytest.raises(InputError, match=key):
        render_report(report)


def test_a_histogram_of_the_wrong_keys_is_refused_by_their_name() -> None:
    report = example_report()
    report["histogram"]["bellow"] = report["histogram"].pop("below")
    with pytest.raises(InputError, match="below"):
        render_report(report)


def drawn(counts: list[int], threshold: float | None = 0.5, first: float = -0.5, width: float = 0.25) -> ET.Element:
    edges = [first + width * index for index in range(len(counts) + 1)]
    return ET.fromstring(histogram_svg(Histogram(edges, counts, 0, 0), threshold, []))


def percent(element: ET.Element, attribute: str) -> float:
    return float(element.attrib[attribute].removesuffix("%"))


def test_the_line_of_an_exact_copy_stands_where_the_axis_labels_put_one() -> None:
    svg = drawn([5] * 8)
    places = {text.text: percent(text, "x") for text in svg.iter("text") if "x-tick" in text.attrib["class"]}
    line = next(line for line in svg.iter("line") if line.attrib["class"] == "mark exact-copy")
    assert percent(line, "x1") == pytest.approx(places["0.0"] + 2 * (places["0.5"] - places["0.0"]))


def test_no_line_of_an_exact_copy_is_drawn_outside_the_axis() -> None:
    assert not [line for line in drawn([5, 5]).iter("line") if "exact-copy" in line.attrib["class"]]


def test_a_tenfold_count_adds_the_same_height_each_time_and_one_pair_can_be_seen() -> None:
    heights = [float(bar.attrib["height"]) for bar in drawn([1, 10, 100, 1000]).iter("rect")]
    assert heights[0] > 5
    steps = [right - left for left, right in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)


def test_bars_over_the_threshold_are_marked_and_empty_bins_are_not_drawn() -> None:
    kinds = [bar.attrib["class"] for bar in drawn([4, 0, 4, 4, 4, 4]).iter("rect")]
    assert kinds == ["pairs", "pairs", "pairs", "pairs over", "pairs over"]


def test_an_empty_histogram_is_drawn_as_an_axis() -> None:
    assert not list(drawn([0, 0]).iter("rect"))


@pytest.mark.parametrize(("edges", "counts"), [([0.0, 1.0], [1, 2]), ([0.0], []), ([0.0, 0.0], [1]), ([1.0, 0.0], [1])])
def test_edges_that_do_not_fit_the_counts_are_refused(edges: list[float], counts: list[int]) -> None:
    with pytest.raises(InputError, match="histogram"):
        histogram_svg(Histogram(edges, counts, 0, 0), 0.5, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.5, "−0.50"), (-0.001, "0.00"), (1234.5, "1,234.50"), (None, "–"), (math.nan, "–"), (math.inf, "–")],
)
def test_decimals_have_a_true_minus_and_no_minus_zero(value: float | None, text: str) -> None:
    assert decimal_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.34, "0.3 s"), (59.97, "1 min 0 s"), (140.2, "2 min 20 s"), (3599.9, "1 h 0 min"), (None, "–")],
)
def test_times_are_told_in_their_two_largest_units(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_date_is_told_in_utc_and_what_is_no_date_stays() -> None:
    assert date_text("2026-11-22T01:30:00+02:00") == "21 November 2026, 23:30 UTC"
    assert date_text("yesterday") == "yesterday"


def report_with_everything() -> dict[str, Any]:
    report = example_report(num_queries=3, num_leaked=2, rows_per_query=5)
    report["skipped_rows"] = skipped_rows(2)
    report["summary"]["num_skipped_rows"] = 2
    report["queries"][0] |= {"p_value": 0.0004, "q_value": 0.02}
    report["histogram"]["above"] = 3
    return report
