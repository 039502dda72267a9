"""Column templates fill in columns and evaluate nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.template import fill_template, template_columns


def test_columns_are_filled_and_doubled_braces_are_braces() -> None:
    assert fill_template("Q: {question}\nA: {{{answer}}}", {"question": "2+2?", "answer": 4}) == "Q: 2+2?\nA: {4}"
    assert template_columns("{a} and {b}{a}") == ["a", "b", "a"]


@pytest.mark.parametrize("template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>10}", "{}"])
def test_anything_but_a_plain_column_name_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="only plain column names"):
        fill_template(template, {"a": "text", "a.__class__": "x", "a[0]": "y"})


@pytest.mark.parametrize("template", ["{a", "a}", "{a}}"])
def test_an_unbalanced_brace_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        template_columns(template)


def test_a_missing_column_and_a_null_are_named() -> None:
    with pytest.raises(InputError, match="no column 'b'; the columns are 'a'"):
        fill_template("{b}", {"a": "x"})
    with pytest.raises(InputError, match="column 'a' holds null"):
        fill_template("{a}", {"a": None})


@given(st.text())
def test_a_value_is_never_read_as_a_template(value: str) -> None:
    assert fill_template("<{a}>", {"a": value}) == f"<{value}>"
