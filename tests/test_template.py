"""Column templates fill in columns and evaluate nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.template import fill_template, template_columns


def test_columns_are_filled_and_doubled_braces_are_braces() -> None:
    assert fill_template("Q: {question}\nA: {{{answer}}}", {"question": "2+2?", "answer": 4}) == "Q: 2+2?\nA: {4}"
    assert template_columns("{a} and {b}{a}") == ["a", "b", "a"]


def test_a_dotted_name_is_a_field_of_a_struct_and_of_nothing_else() -> None:
    row = {"meta": {"answer": "four", "body": None}, "x": "text", "a.b": "column", "a": {"b": "field", "c": 5}}
    assert fill_template("{meta.answer} {a.b} {a.c}", row) == "four column 5"
    with pytest.raises(InputError, match=r"column 'meta\.body\.text' holds null"):
        fill_template("{meta.body.text}", row)
    with pytest.raises(InputError, match=r"column 'meta' holds dict, not text"):
        fill_template("{meta}", row)
    for name in ("x.upper", "meta.keys", "meta.answer.upper", "meta.nothing", "c"):
        with pytest.raises(InputError, match=rf"no column '{name}'; the columns are 'meta.answer', 'meta.body', 'x'"):
            fill_template("{" + name + "}", row)


def test_an_object_that_is_no_dict_is_never_looked_into() -> None:
    class Secret:
        key = "secret"

    for template in ("{a.key}", "{b.a.key}"):
        with pytest.raises(InputError, match="no column"):
            fill_template(template, {"a": Secret(), "b": {"a": Secret()}})


@pytest.mark.parametrize(
    "template",
    [
        "{a.__class__}",
        "{a.b.__init__.__globals__}",
        "{a[0]}",
        "{a.b[0]}",
        "{a!r}",
        "{a:>10}",
        "{}",
        "{.a}",
        "{a.}",
        "{a..b}",
    ],
)
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
