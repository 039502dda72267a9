"""What a scan can find out about a query, in words for someone who has read no paper."""

from collections import Counter
from collections.abc import Sequence
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
        "A row is a copy of the query, and the model predicts the query better than it predicts controls.",
        "Remove the rows; leave the query out of the score that you report.",
    ),
    "rephrased_learned": Outcome(
        "Rephrased and learned",
        "rephrased, learned",
        "No row is a copy, but the model knows the query and a row as one: other words, or the same solution.",
        "Read the rows. If they give the answer away, remove them and leave the query out.",
    ),
    "copied": Outcome(
        "Copied",
        "copied",
        "A row is a copy of the query. Whether the model learned it, only controls can tell.",
        "Remove the rows; leave the query out of the score that you report.",
    ),
    "copied_not_learned": Outcome(
        "Copied, not learned",
        "copied, not learned",
        "A row is a copy of the query, but the model predicts the query no better than it predicts controls.",
        "Remove the rows before the next run. The score is probably not inflated, but cannot be called clean.",
    ),
    "neither": Outcome(
        "Neither",
        "neither",
        "No row is a copy, and none stands out when the model unlearns the query.",
        "Nothing to do. It is no proof: what a model never learned, it cannot show.",
    ),
}


def count_outcomes(outcomes: Sequence[str], judged: bool) -> dict[str, int]:
    """Of those that a run can find: with controls (`judged`) four, without them copies or nothing."""
    can_be = {"copied_learned", "rephrased_learned", "copied_not_learned"} if judged else {"copied"}
    counts = Counter(outcomes)
    return {key: counts[key] for key in OUTCOMES if counts[key] or key in can_be | {"neither"}}


def badness(outcome: str) -> int:
    """How far up the table a query belongs: 0 for no leak."""
    return len(OUTCOMES) - 1 - list(OUTCOMES).index(outcome)
