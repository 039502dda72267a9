"""Rows that cannot be scored: named and counted, or a reason to stop; never silently dropped."""

from collections.abc import Sequence

from finf_core.errors import InputError
from finf_core.spec import CorpusSpec
from tasks.corpus import CorpusRow

Skipped = tuple[str, int, str]  # shard, row, reason


def sort_out_bad_rows(
    rows: Sequence[CorpusRow], shard: str, corpus: CorpusSpec
) -> tuple[list[CorpusRow], list[Skipped]]:
    """Rows that can be scored, and the others with a reason.

    Raises:
        InputError: a bad row, and the config says to stop at one.
    """
    good: list[CorpusRow] = []
    bad: list[Skipped] = []
    for row in rows:
        if row.flaw is None:
            good.append(row)
        else:
            bad.append(skip_row(shard, row.row, row.flaw, corpus))
    return good, bad


def skip_row(shard: str, row: int, reason: str, corpus: CorpusSpec) -> Skipped:
    """The record of a skipped row, or the error that the config asks for instead."""
    if corpus.on_bad_row == "fail":
        key, value = corpus.content
        raise InputError(
            f"{shard}: row {row}: {reason} ({'template' if key == 'text_template' else 'column'} {value!r}); "
            'mend it, or set corpus.on_bad_row = "skip" to count and name such rows in the report'
        )
    return shard, row, reason
