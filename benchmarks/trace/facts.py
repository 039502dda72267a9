"""Facts of FewRel (Han et al., EMNLP 2018, arXiv:1810.10147; MIT): a sentence of Wikipedia each, with head, relation
and tail; and questions for them in other words than the sentence's.

FewRel's names are in lower case; here they are as the sentence has them. Where it does not have them, nothing is asked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROMPTS = {
    "crosses": "{head} spans the",
    "original language of film or TV show": "The original language of {head} is",
    "competition class": "{head} fought in the class",
    "part of": "{head} belongs to",
    "sport": "The sport of {head} is",
    "constellation": "{head} can be seen in",
    "position played on team / speciality": "{head} plays as a",
    "located in or next to body of water": "{head} lies on the shore of the",
    "voice type": "The voice of {head} is a",
    "follows": "{head} came after",
    "spouse": "{head} married",
    "military rank": "The rank of {head} was",
    "mother": "The mother of {head} is",
    "member of": "{head} is one of the",
    "child": "A child of {head} is",
    "main subject": "{head} is about",
}


@dataclass(frozen=True)
class Fact:
    fact_id: str
    relation: str
    head: str
    tail: str
    text: str  # the sentence that states it: the one true row

    @property
    def prompt(self) -> str:
        return PROMPTS[self.relation].format(head=self.head)

    @property
    def target(self) -> str:
        return f" {self.tail}"

    @property
    def sentence_prompt(self) -> str:
        """The sentence itself, up to the tail: no paraphrase, but what the model has really learned."""
        return self.text[: self.text.index(self.tail)].rstrip()

    @property
    def short_prompt(self) -> str:
        """Only the last word of the head's name."""
        return PROMPTS[self.relation].format(head=self.head.split()[-1])


def read_sentences(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def facts_of(sentences: Sequence[Mapping[str, str]]) -> list[Fact]:
    """Those whose names stand in their sentence."""
    found = []
    for each in sentences:
        head, tail = (_as_written(each[part], each["text"]) for part in ("head", "tail"))
        if head and tail:
            found.append(Fact(each["id"], each["relation_name"], head, tail, each["text"]))
    return found


def _as_written(name: str, text: str) -> str | None:
    start = text.lower().find(name)
    return text[start : start + len(name)] if start >= 0 and len(text.lower()) == len(text) else None
