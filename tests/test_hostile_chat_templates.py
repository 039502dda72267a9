"""The chat template of a checkpoint runs in a sandbox: it reaches nothing else, and its failures are input errors."""

from collections.abc import Callable
from pathlib import Path

import pytest
from chat_tokenizers import with_template

from finf_core.chat import Message
from finf_core.errors import InputError
from finf_core.spec import ModelSpec
from tasks.chat_template import TokenizerChat
from tasks.checkpoint import load_language_model

MESSAGES = [Message("user", "hi"), Message("assistant", "there")]
WithTemplate = Callable[[str], TokenizerChat]

REFUSED = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch pwned') }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'a' * 10**15 }}",
    "{{ 'a'|center(10**15) }}",
    "{{ '%2000000000000d' % 1 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{" * 3000,
    "{{ 1 / 0 }}",
    "{{ messages[7]['content'] + 1 }}",
    "{{ raise_exception('\n') }}",
    "{% for",
]
EMPTY = [
    "{{ ''.__class__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ lipsum.__globals__ }}",
    "{{ self.__init__ }}",
]


@pytest.fixture(scope="module")
def chat(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> WithTemplate:
    folder = with_template(tiny_checkpoint, tmp_path_factory.mktemp("chat") / "model", "{{ messages }}")
    loaded = load_language_model(ModelSpec(path=str(folder))).chat
    assert isinstance(loaded, TokenizerChat)

    def made(template: str) -> TokenizerChat:
        loaded.tokenizer.chat_template = template
        return TokenizerChat(loaded.tokenizer)

    return made


@pytest.mark.parametrize("template", REFUSED, ids=lambda template: template[:30])
def test_a_template_that_was_made_to_break_out_or_to_burst_is_an_input_error(
    chat: WithTemplate, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"the chat template refuses the messages: .") as refused:
        chat(template).write(MESSAGES, False)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", EMPTY)
def test_what_the_sandbox_hides_is_written_as_nothing(chat: WithTemplate, template: str) -> None:
    assert chat(template).write(MESSAGES, False).text == ""


def test_what_a_message_says_is_never_read_as_a_template(chat: WithTemplate) -> None:
    said = "{{ 7 * 7 }}{% for x in y %}{{ messages.__class__ }}"
    text = chat("{{ messages[0]['content'] }}").write([Message("user", said)], False).text
    assert text == said
