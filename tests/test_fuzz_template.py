"""Templates are filled or refused; nothing in them is ever evaluated, and what they make is as long as its parts."""

from typing import Any

import fuzz_counts
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finf_core.errors import InputError
from finf_core.template import fill_template, template_columns, value_at

TEMPLATES = st.text(max_size=30) | st.text(alphabet="{}a.b_![]:>0r ", max_size=30)
KEYS = st.text(alphabet="ab._[]!", max_size=4)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2)
ROWS = st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=5))
EVIL = [
    "{a.__class__}",
    "{a.__init__.__globals__}",
    "{a[0]}",
    "{a[__class__]}",
    "{a!r}",
    "{a!s}",
    "{a:>1000000000}",
    "{a:{b}}",
    "{a:{b.__class__}}",
    "{0}{",
    "{" * 99_999,
    "{a:" + "{b:" * 1000 + "}" * 1001,
    "{a." + "a." * 5000 + "a}}",
]


class Watch(str):
    """Text that counts whoever formats it or looks into it."""

    looks = 0

    def __format__(self, spec: str) -> str:
        Watch.looks += 1
        return "formatted"

    def __getitem__(self, index: Any) -> str:
        Watch.looks += 1
        return "item"

    @property
    def secret(self) -> str:
        Watch.looks += 1
        return "secret"


@pytest.mark.parametrize("template", EVIL, ids=lambda template: template[:30])
def test_a_template_that_was_made_to_break_out_is_refused(template: str) -> None:
    fuzz_counts.tried["template"] += 1
    for use in (lambda: template_columns(template), lambda: fill_template(template, {"a": Watch("x"), "b": "9"})):
        with pytest.raises(InputError):
            use()
    assert Watch.looks == 0


@given(template=TEMPLATES, row=ROWS)
@example(template="{a.secret}{a[0]}", row={})
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_any_template_is_filled_from_plain_values_or_refused(template: str, row: dict[str, Any]) -> None:
    fuzz_counts.tried["template"] += 1
    watched = row | {"a": Watch("text")}
    try:
        columns = template_columns(template)
        filled = fill_template(template, watched)
    except InputError:
        return
    finally:
        assert Watch.looks == 0
    parts = [str(value_at(watched, column)) for column in columns]
    assert len(filled) <= len(template) + sum(map(len, parts))
    assert all(part in filled for part in parts)
