"""Clean items of which the corpus holds a near double after all: they are neither clean queries nor controls.

Told by text alone, in the same way for queries and controls: at least `SAME_SHARE` of the characters of the item's
solution stand in one row, in pieces of at least `PIECE_CHARS`.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from benchmarks.contamination.inputs import CLEAN, CONTROL, Row, Truth
from benchmarks.contamination.rankings import Rankings

SAME_SHARE, PIECE_CHARS = 0.8, 16
ROWS_READ = 5


def near_doubles(
    items: Sequence[Mapping[str, str]], rows: Sequence[Row], rankings: Sequence[Rankings], truths: Mapping[str, Truth]
) -> set[str]:
    """Ids of such items; of each, the best rows of the rankings are read."""
    texts = dict(rows)
    found = set()
    for item in items:
        if truths[item["item_id"]].kind not in (CLEAN, CONTROL):
            continue
        best = {row.document_id for ranking in rankings for row in ranking[item["item_id"]][:ROWS_READ]}
        if any(shared_share(item["target"], texts[document_id]) >= SAME_SHARE for document_id in best):
            found.add(item["item_id"])
    return found


def shared_share(solution: str, text: str) -> float:
    """Of the solution's characters, by difflib, spaces apart."""
    wanted, there = "".join(solution.split()), "".join(text.split())
    blocks = SequenceMatcher(None, wanted, there, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= PIECE_CHARS) / max(1, len(wanted))
