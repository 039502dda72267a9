"""Chats as text: who says what, and which part of the text the assistant wrote.

Two formats of one message are known: `{role, content}`, and `{from, value}`, whose `human` and `gpt` are user and
assistant.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from finf_core.errors import InputError

FIELDS = (("role", "content"), ("from", "value"))
ASSISTANT = "assistant"
ROLES = {"human": "user", "gpt": ASSISTANT}  # the names of the second format

Span = tuple[int, int]  # characters of a text, the second one exclusive


class Message(NamedTuple):
    role: str
    content: str


class ChatText(NamedTuple):
    text: str
    assistant: tuple[Span, ...] | None  # what the assistant wrote; None: it was not asked for


class Chat(Protocol):
    """A way to write chats as text."""

    @property
    def has_special_tokens(self) -> bool:
        """Whether the text holds all special tokens that belong there, so that the tokenizer adds none."""

    def write(self, messages: Sequence[Message], find_assistant: bool) -> ChatText: ...

    def split(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The text up to the last message, which is the assistant's, and what the assistant writes there."""


class PlainChat:
    """`role: content` and a line break for each message; the assistant writes the content and the line break."""

    has_special_tokens = False

    def write(self, messages: Sequence[Message], find_assistant: bool) -> ChatText:
        text, spans = "", []
        for role, content in messages:
            start = len(text) + len(f"{role}: ")
            text += f"{role}: {content}\n"
            if role == ASSISTANT:
                spans.append((start, len(text)))
        return ChatText(text, tuple(spans) if find_assistant else None)

    def split(self, messages: Sequence[Message]) -> tuple[str, str]:
        text, answer = self.write(messages, find_assistant=False).text, f"{messages[-1].content}\n"
        return text.removesuffix(answer), answer


def read_messages(value: Any) -> list[Message]:
    """A list of dicts as messages; other fields than the two are left out.

    Raises:
        InputError: null, empty, or a message without text in both fields.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"the list of messages is {'empty' if value == [] else _kind(value)}")
    return [_message(place, message) for place, message in enumerate(value)]


def split_answer(chat: Chat, messages: Sequence[Message]) -> tuple[str, str]:
    """Context and target of a query: all before the assistant's last message, and that message.

    Raises:
        InputError: no such message, or a template that cannot be cut there.
    """
    answers = [place for place, message in enumerate(messages) if message.role == ASSISTANT]
    if not answers:
        raise InputError("no message of the assistant")
    return chat.split(messages[: answers[-1] + 1])


def _message(place: int, message: Any) -> Message:
    fields = message if isinstance(message, dict) else {}
    for names in FIELDS:
        if all(name in fields for name in names):
            for name in names:
                if not isinstance(fields[name], str):
                    raise InputError(f"message {place}: {name} is {_kind(fields[name])}")
            role, content = (fields[name] for name in names)
            return Message(ROLES.get(role, role) if names == FIELDS[1] else role, content)
    found = f"has the fields {', '.join(fields)}" if fields else f"is {_kind(message)}"
    raise InputError(f"message {place} {found}; want role and content")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
