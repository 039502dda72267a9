"""Multiple choice as files have it: MMLU (a number), ARC (labels of its own), and the text of the right choice."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finf_core.choices import choice_columns
from finf_core.errors import InputError
from finf_core.spec import QueriesSpec
from tasks.queries import Query, load_queries

CAPITALS = ["Oslo", "Paris", "Rome", "Bonn"]
LINES = "A. Oslo\nB. Paris\nC. Rome\nD. Bonn"


def load(tmp_path: Path, rows: list[dict[str, Any]], **keys: Any) -> list[Query]:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "queries.parquet")
    return load_queries(QueriesSpec(path=str(tmp_path / "queries.parquet"), **keys))


def test_a_file_like_mmlu(tmp_path: Path) -> None:
    rows = [{"question": "Capital of France?", "subject": "geography", "choices": CAPITALS, "answer": 1}]
    keys = {"choices_column": "choices", "answer_column": "answer"}
    [query] = load(tmp_path, rows, context="{question}\n{choices}\nAnswer: ", target="{answer}", **keys)
    assert (query.context, query.target) == (f"Capital of France?\n{LINES}\nAnswer: ", "Paris")
    [query] = load(tmp_path, rows, context="{question}\n", target="{answer_label}. {answer}", **keys)
    assert query.target == "B. Paris"


@pytest.mark.parametrize(
    "choices",
    [
        {"text": CAPITALS, "label": ["1", "2", "3", "4"]},
        [{"text": text, "label": str(place)} for place, text in enumerate(CAPITALS, start=1)],
    ],
    ids=["struct of lists", "list of structs"],
)
def test_a_file_like_arc_keeps_its_own_labels(tmp_path: Path, choices: Any) -> None:
    rows = [{"question": {"stem": "Capital of France?", "choices": choices}, "answerKey": "2"}]
    keys = {"choices_column": "question.choices", "answer_column": "answerKey"}
    [query] = load(tmp_path, rows, context="{question.stem}\n{choices}\n", target="{answer_label}: {answer}", **keys)
    assert query.context == "Capital of France?\n1. Oslo\n2. Paris\n3. Rome\n4. Bonn\n"
    assert query.target == "2: Paris"


@pytest.mark.parametrize("answer", [1, "B", "Paris"])
def test_the_right_choice_is_named_by_number_letter_or_text(answer: Any) -> None:
    found = choice_columns({"c": CAPITALS, "a": answer}, "c", "a")
    assert found == {"choices": LINES, "answer": "Paris", "answer_label": "B"}


@pytest.mark.parametrize(
    ("choices", "answer", "words"),
    [
        (CAPITALS, 4, "column 'a': 4 is no choice; want a number from 0, one of A, B, C, D, or the text of one"),
        (CAPITALS, -1, "-1 is no choice"),
        (CAPITALS, True, "True is no choice"),
        (CAPITALS, None, "None is no choice"),
        (CAPITALS, "E", "'E' is no choice"),
        (["B", "A"], "A", "'A' is more than one choice"),
        (["same", "same"], "same", "'same' is more than one choice"),
        ([], 0, "column 'c' holds no choices: want a list of 1 to 26 texts"),
        (None, 0, "column 'c' holds no choices"),
        (["x", None], 0, "column 'c' holds no choices"),
        (["x"] * 27, 0, "column 'c' holds no choices"),
        ({"text": ["x", "y"], "label": ["A"]}, 0, "column 'c' holds no choices"),
        ("text", 0, "column 'c' holds no choices"),
    ],
)
def test_an_answer_that_is_no_choice_or_two_is_refused(choices: Any, answer: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        choice_columns({"c": choices, "a": answer}, "c", "a")
    assert words in str(error.value)


def test_a_bad_answer_is_named_by_file_and_row(tmp_path: Path) -> None:
    rows = [{"choices": CAPITALS, "answer": 0}, {"choices": CAPITALS, "answer": 9}]
    with pytest.raises(InputError, match=r"queries\.parquet: row 1: column 'answer': 9 is no choice"):
        load(tmp_path, rows, target="{answer}", choices_column="choices", answer_column="answer")
