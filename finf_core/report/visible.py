"""Characters that a page or a terminal would hide or obey, written out as tokens such as `\\u202e`.

Corpus text is hostile data: a bidi override turns a name round, an ANSI escape or a zero-width space hides in it, a
null byte or a lone surrogate breaks the page. Tab and newline stay, and so do the two joiners (U+200C, U+200D) that
Persian, Hindi and emoji are spelt with. `\\r\\n` counts as a newline, as a browser counts it.
"""

import re

from markupsafe import Markup, escape

_HIDDEN = re.compile(
    "["
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls: null bytes, ANSI escapes, lone carriage returns
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi marks, embeddings, overrides, isolates
    r"\xad\u034f\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\ufeff"  # soft hyphen, zero-width and invisible signs
    r"\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb"  # signs that enclose or annotate their neighbours
    r"\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # format signs of scripts
    r"\u115f\u1160\u3164\uffa0\u2028\u2029"  # Hangul fillers that draw nothing, line and paragraph separators
    r"\U000e0000-\U000e0fff\ud800-\udfff"  # tags and variation selectors that smuggle text; lone surrogates
    "]"
)


def visible_text(text: str) -> str:
    """Spell out hidden characters; the result is plain text, still to be escaped."""
    return _HIDDEN.sub(_token, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    """As `visible_text`, on one line: newlines and tabs are spelt out too."""
    return _HIDDEN.sub(_token, text.replace("\n", "\\n").replace("\t", "\\t"))


def visible_markup(text: str) -> Markup:
    """Escape the text and mark each spelt-out character, so that it differs from the same letters in the text."""
    escaped = str(escape(text.replace("\r\n", "\n")))
    return Markup(_HIDDEN.sub(lambda found: f'<span class="code-point">{_token(found)}</span>', escaped))


def _token(found: re.Match[str]) -> str:
    code_point = ord(found[0])
    return f"\\u{code_point:04x}" if code_point <= 0xFFFF else f"\\U{code_point:08x}"
