"""CONFIG.toml: every mistake is one line that names the key."""

from pathlib import Path

import pytest

from finf_core.errors import InputError
from finf_core.fingerprint import fingerprint
from finf_core.spec import UpdateSpec
from flows.config_template import SCAN
from tasks.config import load_config

GOOD = """
name = "bench"
[model]
path = "m"
[corpus]
path = "c"
[queries]
path = "q.jsonl"
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "scan.toml"
    path.write_text(text)
    return load_config(path)


def test_a_small_config_gets_the_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, GOOD)
    assert spec.update == UpdateSpec()
    assert (spec.name, spec.model.path, spec.corpus.text_column) == ("bench", "m", "text")


def test_the_config_that_init_writes_is_valid(tmp_path: Path) -> None:
    assert load(tmp_path, SCAN).queries.context == "{prompt}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("[corpus]", "[corpus]\ntext_colum = 'x'"), ["corpus.text_colum", "corpus.text_column"]),
        (
            GOOD.replace('"c"', '"c"\ntext_column = "a"\ntext_template = "{a}"'),
            ["corpus.text_template and corpus.text_column"],
        ),
        (GOOD.replace('"c"', '"c"\nmessages_column = "a"\ntokens_column = "b"'), ["give one of the two"]),
        (GOOD.replace('"c"', '"c"\nloss_on = "assistant"'), ["corpus.loss_on", "goes with corpus.messages_column"]),
        (GOOD.replace('"c"', '"c"\ntext_template = "{a"'), ["corpus.text_template", "'{a'"]),
        (GOOD.replace('"c"', '"c"\ntext_template = "{a.__class__}"'), ["only plain column names"]),
        (GOOD.replace('"c"', '"c"\ntext_template = "no column"'), ["corpus.text_template", "names no column"]),
        (GOOD.replace('"m"', '"m"\nchat_template = "chatml"'), ["model.chat_template", "'plain'"]),
        (GOOD + 'choices_column = "choices"\n', ["queries.choices_column and queries.answer_column go together"]),
        (GOOD + 'messages_column = "m"\ntarget = "{a}"\n', ["queries.messages_column goes without"]),
        (GOOD + "[updates]\nkind = 'sgd'\n", ["updates", "did you mean update"]),
        (GOOD + "[update]\nkind = 'sdg'\n", ["update.kind", "'sgd'"]),
        (GOOD + "[update]\nmove_nats = -1.0\n", ["update.move_nats must be positive"]),
        (GOOD + "[rank]\ntop_k = 0\n", ["rank.top_k"]),
        (GOOD.replace('path = "c"', ""), ["corpus.path"]),
        (GOOD.replace('name = "bench"', 'name = "../bench"'), ["name", "letters"]),
        (GOOD.replace('name = "bench"', 'kind = "scam"\nname = "bench"'), ["kind = 'scam'"]),
        (GOOD.replace("[model]", "[model"), ["TOML"]),
        ('model = "m"\n' + GOOD.replace('[model]\npath = "m"\n', ""), ["model"]),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path / "scan.toml") in message
    assert all(word in message for word in words), message


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finf init scan"):
        load_config(tmp_path / "nowhere.toml")


def test_every_key_of_the_spec_is_part_of_its_fingerprint(tmp_path: Path) -> None:
    changed = [
        GOOD,
        GOOD.replace('path = "m"', 'path = "m2"'),
        GOOD + "[update]\nmove_nats = 0.2\n",
        GOOD + "[update]\nkind = 'sgd'\n",
        GOOD + "[rank]\ntop_k = 5\n",
        GOOD.replace("[queries]", "[queries]\ncontext = '{prompt}'"),
    ]
    assert len({fingerprint(load(tmp_path, text)) for text in changed}) == len(changed)
