"""Marks in texts: they lie where the offsets say, over hostile text too, and change no character."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_example import HOSTILE

from finf_core.report.marked_text import Mark, heat_class, marked_text, query_markup, row_markup
from finf_core.report.visible import visible_text

MARKS = st.builds(Mark, st.integers(-3, 20), st.integers(-3, 20), st.sampled_from(["shared", "hot1", "context"]))


def text_of(markup: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", markup))


def marked(markup: str, kind: str) -> list[str]:
    """The text of each element that has the class."""
    return [
        unescape(text)
        for _, classes, text in re.findall(r'<(\w+) class="([^"]*)"[^>]*>([^<]*)<', markup)
        if kind in classes.split()
    ]


@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from("<&\"'\r\n\u202e\x00"), max_size=20),
    st.lists(MARKS, max_size=6),
)
def test_marks_change_no_character_wherever_they_lie(text: str, marks: list[Mark]) -> None:
    assert text_of(marked_text(text, marks)) == visible_text(text)


@given(st.lists(MARKS, max_size=6))
def test_each_character_has_the_classes_of_the_marks_over_it(marks: list[Mark]) -> None:
    text = "abcdefghijklmnop"
    markup = marked_text(text, marks)
    for kind in ("shared", "hot1", "context"):
        over = {
            text[place]
            for mark in marks
            if mark.kind == kind
            for place in range(max(0, mark.start), min(mark.stop, 16))
        }
        assert set("".join(marked(markup, kind))) == over


def test_offsets_count_raw_characters_though_hidden_ones_are_spelt_out() -> None:
    assert marked(marked_text("\u202e\x00<a>bcd", [Mark(5, 7, "shared")]), "shared") == ["bc"]


def test_a_mark_that_splits_a_windows_newline_shows_one_newline() -> None:
    assert text_of(marked_text("a\r\nb", [Mark(0, 2, "shared")])) == "a\nb"


def test_hostile_text_under_a_mark_is_escaped() -> None:
    markup = marked_text(HOSTILE, [Mark(0, len(HOSTILE), "shared")])
    assert re.findall("<[^>]*>", markup) == ['<mark class="shared">', "</mark>"]


def test_the_query_shows_its_context_and_what_it_shares_with_which_row() -> None:
    rows = [
        {"rank": 1, "evidence": {"spans": [[4, 7, 0, 3]]}},
        {"rank": 2, "evidence": {"spans": [[4, 11, 9, 16]]}},
        {"rank": 3, "evidence": None},
    ]
    markup = query_markup({"text_excerpt": "one two six ten", "context_characters": 4, "top": rows})
    assert marked(markup, "context") == ["one "]
    assert marked(markup, "of-1") == ["two"]
    assert marked(markup, "of-2") == ["two", " six"]


def evidence(ratios: list[float | None], spans: list[list[int]]) -> dict[str, object]:
    return {"text": "aabbccdd", "token_ends": [2, 4, 6, 8], "token_ratios": ratios, "spans": spans}


def test_the_row_shows_shared_words_and_the_heat_of_each_token() -> None:
    markup = row_markup(evidence([None, 1.0, 0.0, -2.0], [[50, 54, 3, 7]]))  # type: ignore[arg-type]
    assert marked(markup, "shared") == ["b", "cc", "d"]
    assert marked(markup, "hot2") == ["b", "b"]
    assert marked(markup, "cold3") == ["d", "d"]
    assert "aa" in re.sub(r"<(mark|span).*?</\1>", "", markup)


def test_neighbours_of_one_heat_are_one_mark_that_tells_their_mean() -> None:
    markup = row_markup(evidence([None, 1.0, 1.2, 5.0], []))  # type: ignore[arg-type]
    assert marked(markup, "hot2") == ["bbcc"]
    assert 'title="1.10, mean of 2 tokens"' in markup
    assert 'title="5.00"' in markup


@pytest.mark.parametrize(
    ("ratio", "kind"),
    [
        (0.0, ""),
        (0.24, ""),
        (-0.24, ""),
        (0.25, "hot1"),
        (1.0, "hot2"),
        (1.5, "hot3"),
        (40.0, "hot4"),
        (-0.3, "cold1"),
        (-3.0, "cold4"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_heat_has_four_levels_either_way_and_none_round_zero(ratio: float | None, kind: str) -> None:
    assert heat_class(ratio) == kind
