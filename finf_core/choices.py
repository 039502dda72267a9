"""Multiple choice: the choices as lettered lines, and the right one, for the templates of a query.

Choices are a list of texts, or texts with labels of their own: `{text: [...], label: [...]}` or `[{text, label}, ...]`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from finf_core.errors import InputError
from finf_core.template import value_at

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Choices(NamedTuple):
    texts: list[str]
    labels: list[str]


def choice_columns(row: Mapping[str, Any], choices_column: str, answer_column: str) -> dict[str, str]:
    """What `{choices}`, `{answer}` and `{answer_label}` stand for in a row.

    Raises:
        InputError: no choices, or an answer that names none of them, or two.
    """
    found = _read_choices(value_at(row, choices_column), choices_column)
    right = _find_answer(found, value_at(row, answer_column), answer_column)
    lines = (f"{label}. {text}" for label, text in zip(found.labels, found.texts, strict=True))
    return {"choices": "\n".join(lines), "answer": found.texts[right], "answer_label": found.labels[right]}


def _read_choices(value: Any, column: str) -> Choices:
    texts: Any = value
    labels: Any = list(LETTERS[: len(value)]) if isinstance(value, list) else None
    if isinstance(value, dict):
        texts, labels = value.get("text"), value.get("label")
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        texts, labels = ([each.get(field) for each in value] for field in ("text", "label"))
    if not (_are_texts(texts) and _are_texts(labels) and len(texts) == len(labels)):
        want = f"want a list of 1 to {len(LETTERS)} texts, or text and label of each"
        raise InputError(f"column {column!r} holds no choices: {want}")
    return Choices(texts, labels)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)


def _find_answer(choices: Choices, answer: Any, column: str) -> int:
    """The place of the right choice: an integer counts from 0, text is a label or the text of a choice."""
    if isinstance(answer, int) and not isinstance(answer, bool):
        places = {answer} & set(range(len(choices.texts)))
    else:
        places = {place for known in choices for place, each in enumerate(known) if each == answer}
    if len(places) != 1:
        labels = ", ".join(choices.labels)
        what = "more than one choice" if places else "no choice"
        raise InputError(
            f"column {column!r}: {answer!r} is {what}; want a number from 0, one of {labels}, or the text of one"
        )
    return places.pop()
