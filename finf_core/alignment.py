"""Which words two texts have in common, and where: what a report marks side by side."""

from collections.abc import Collection, Sequence
from re import Match
from typing import NamedTuple

from rapidfuzz.distance import Indel

from finf_core.lexical import WORD

FEWEST_WORDS = 4  # shorter runs are found in any two texts


class SharedSpan(NamedTuple):
    """The same words in both texts, in characters; stops are exclusive."""

    first_start: int
    first_stop: int
    second_start: int
    second_stop: int


def shared_spans(first: str, second: str) -> list[SharedSpan]:
    """The runs of at least `FEWEST_WORDS` words of a longest common subsequence of words, in order.

    Source: Hyyrö 2004, as implemented in `rapidfuzz`; memory grows with words × words / 8 bytes.
    """
    first_words, second_words = (list(WORD.finditer(text)) for text in (first, second))
    opcodes = Indel.opcodes(*([word.group().lower() for word in words] for words in (first_words, second_words)))
    return [
        SharedSpan(
            *_characters(first_words[code.src_start : code.src_end]),
            *_characters(second_words[code.dest_start : code.dest_end]),
        )
        for code in opcodes
        if code.tag == "equal" and code.src_end - code.src_start >= FEWEST_WORDS
    ]


def same_words(first: str, second: str, ignored: Collection[str] = ()) -> list[SharedSpan]:
    """Every word of the second text that stands in the first, too, beside its first place there; in order.

    For texts that say the same in another order, where no run of words is shared.

    Args:
        ignored: in lower case: words that say nothing, because most texts have them.
    """
    place_of: dict[str, Match[str]] = {}
    for word in WORD.finditer(first):
        place_of.setdefault(word.group().lower(), word)
    return [
        SharedSpan(*place.span(), *word.span())
        for word in WORD.finditer(second)
        if (place := place_of.get(word.group().lower())) and word.group().lower() not in ignored
    ]


def _characters(words: Sequence[Match[str]]) -> tuple[int, int]:
    return words[0].start(), words[-1].end()
