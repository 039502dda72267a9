"""The four things that a scan can find out about a query, in words for someone who has read no paper."""

from typing import NamedTuple


class Outcome(NamedTuple):
    title: str
    short: str  # in a table
    meaning: str
    action: str


OUTCOMES = {  # by the value of a query's "outcome", the worst first
    "copied_learned": Outcome(
        "Copied and learned",
        "copied, learned",
        "The corpus holds the query’s words, and the model learned them there.",
        "Remove the rows; leave the query out of the score that you report.",
    ),
    "rephrased_learned": Outcome(
        "Rephrased and learned",
        "rephrased, learned",
        "No row holds its words, but the model knows the query and a row as one: other words, or the same solution.",
        "Read the rows. If they give the answer away, remove them and leave the query out.",
    ),
    "copied_not_learned": Outcome(
        "Copied, not learned",
        "copied, not learned",
        "The corpus holds the query’s words, but the model does not show it (yet).",
        "Remove the rows before the next run. The score is probably not inflated, but cannot be called clean.",
    ),
    "neither": Outcome(
        "Neither",
        "neither",
        "No row holds its words, and none stands out when the model unlearns it.",
        "Nothing to do. It is no proof: what a model never learned, it cannot show.",
    ),
}


def badness(outcome: str) -> int:
    """How far up the table a query belongs: 3 for the worst outcome, 0 for none."""
    return len(OUTCOMES) - 1 - list(OUTCOMES).index(outcome)
