"""What to do after a scan: a few steps that depend on what was found."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

RUN = "RUN"  # stands for the run's folder, wherever the store lies


class Step(NamedTuple):
    title: str
    text: str
    commands: tuple[str, ...] = ()


def next_steps(report: Mapping[str, Any]) -> list[Step]:
    """The most urgent first."""
    summary = report["summary"]
    found = _after_leaks(summary) if summary["num_leaked"] else _after_none()
    return [*found, *_gaps(report)]


def _after_leaks(summary: Mapping[str, Any]) -> Iterator[Step]:
    outcomes, num_leaked = summary["outcomes"], summary["num_leaked"]
    num_learned = sum(outcomes.get(key, 0) for key in ("copied_learned", "rephrased_learned", "copied"))
    yield Step("Read the evidence.", f"Open {_queries(num_leaked, 'leaked ')} below: the text beside its best rows.")
    if num_learned:
        yield Step(
            "Correct the score.",
            f"{_queries(num_learned).capitalize()} that the model learned, or may have, can lift it: report it "
            "without them.",
        )
    yield Step(
        "Clean the corpus.",
        "The first command lists the rows to remove, the second writes the corpus without them.",
        (f"finf purify {RUN}", f"finf purify {RUN} --out FOLDER"),
    )
    yield Step(
        "Train again, scan again, compare.",
        "It says what leaks no longer, and what leaks anew.",
        (f"finf diff {RUN} NEW_RUN",),
    )


def _after_none() -> Iterator[Step]:
    yield Step(
        "Keep this run, and compare later ones with it.",
        "Another checkpoint or more shards: it says what leaked anew.",
        (f"finf diff {RUN} NEW_RUN",),
    )
    yield Step("Look at the first rows of a few queries.", "Reworded leaks move a model less than copies do.")


def _gaps(report: Mapping[str, Any]) -> Iterator[Step]:
    """What keeps this run from saying more."""
    num_skipped, num_set_aside = (report["summary"][f"num_{kind}_rows"] for kind in ("skipped", "quarantined"))
    if num_set_aside:
        yield Step(
            "Score the rows that were set aside.",
            f"{num_set_aside:,} rows: no verdict is about them. Why they could not be scored stands at the end.",
            ("finf scan CONFIG --retry-quarantined",),
        )
    if not report["controls"]:
        yield Step(
            "Add controls.",
            "Queries known to be clean (queries.controls in the config) give every verdict an error rate, and find "
            "reworded leaks that a threshold cannot.",
        )
    if report["queries"] and all(query["max_shared"] is None for query in report["queries"]):
        yield Step("Compare the words too.", "Shared words were not counted: a copy that was not learned is not seen.")
    if num_skipped:
        rows = "1 row was" if num_skipped == 1 else f"{num_skipped:,} rows were"
        yield Step("Look at the skipped rows.", f"{rows} not scored; they are listed at the end.")


def _queries(num: int, kind: str = "") -> str:
    return f"the one {kind}query" if num == 1 else f"the {num:,} {kind}queries"
