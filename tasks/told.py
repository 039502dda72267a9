"""What a run says of itself while it runs: a line for people, which carries what machines sort it by."""

from collections.abc import Callable, Mapping

Tell = Callable[[str], None]

RETRIED = ("failed", "died", "waits")  # events after which the same is tried again
LOST = ("set_aside", "retired")


class Told(str):
    """A line, the event that it tells of, and the ids of what it happened to.

    Events: `failed`, `died`, `waits` (for storage), after which the same is tried again; `set_aside`, `retired`.
    """

    event: str
    ids: Mapping[str, str | int]

    def __new__(cls, line: str, event: str = "", **ids: str | int) -> "Told":
        told = super().__new__(cls, line)
        told.event, told.ids = event, ids
        return told


def event_of(line: str) -> str:
    """Empty of a line that is no more than a line."""
    return line.event if isinstance(line, Told) else ""
