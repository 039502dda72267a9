"""Chats written by the tokenizer's own chat template: a Jinja template of the checkpoint, run in a sandbox."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2

from finf_core.chat import Chat, ChatText, Message, PlainChat, Span
from finf_core.errors import InputError
from finf_core.spec import ChatTemplate, LossOn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Whatever a template may end in. Its sandbox ends a range after 100,000 steps; nothing ends ranges within ranges.
REFUSALS = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    *(MemoryError, RecursionError),
)
MARKS_ASSISTANT = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TokenizerChat:
    """As `tokenizer.apply_chat_template` writes it, with the characters that its `generation` blocks enclose."""

    has_special_tokens = True

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer

    @cached_property
    def template(self) -> str:
        """Raises InputError: the tokenizer has none."""
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            raise InputError("the tokenizer has no chat template; set model.chat_template = 'plain'") from error

    @property
    def marks_assistant(self) -> bool:
        return bool(MARKS_ASSISTANT.search(self.template))

    def check(self, loss_on: LossOn) -> None:
        """Raises InputError: no template, or one that does not mark what the assistant says where that is wanted."""
        if not self.marks_assistant and loss_on == "assistant":
            raise InputError(
                "corpus.loss_on = 'assistant': the tokenizer's chat template does not mark what the assistant says "
                "({% generation %}); use one that does, or model.chat_template = 'plain'"
            )

    def write(self, messages: Sequence[Message], find_assistant: bool) -> ChatText:
        """Raises InputError: the template refuses these messages."""
        texts, spans = self._render(messages, return_assistant_tokens_mask=find_assistant)
        return ChatText(texts[0], tuple(spans[0]) if find_assistant else None)

    def split(self, messages: Sequence[Message]) -> tuple[str, str]:
        """By the template's marks, or else where the prompt for an answer ends.

        Raises:
            InputError: the template refuses these messages, or writes them otherwise once they are answered.
        """
        text, spans = self.write(messages, self.marks_assistant)
        if spans:
            start, stop = spans[-1]
            return text[:start], text[start:stop]
        prompt = self._render(messages[:-1], add_generation_prompt=True)[0][0]
        if not text.startswith(prompt):
            raise InputError("the chat template writes a question otherwise once it is answered")
        return prompt, text[len(prompt) :]

    def _render(self, messages: Sequence[Message], **options: Any) -> tuple[list[str], list[list[Span]]]:
        """What `apply_chat_template` itself calls; it does not return a text and where the assistant speaks in it."""
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template
        chat = [message._asdict() for message in messages]
        options |= {"chat_template": self.template} | self.tokenizer.special_tokens_map
        try:
            texts, spans = render([chat], **options)
        except REFUSALS as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"the chat template refuses the messages: {reason}") from error
        return texts, spans


def chat_of(kind: ChatTemplate, tokenizer: "PreTrainedTokenizerBase") -> Chat:
    return PlainChat() if kind == "plain" else TokenizerChat(tokenizer)
