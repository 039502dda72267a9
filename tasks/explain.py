"""What the report shows of a row beside a query: the part that matters, the words both share, and what each token lost.

On the actor. Objects of `tasks.bundles`, with a line (`SCHEMA`) per query and row.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.alignment import SharedSpan, shared_spans
from finf_core.errors import StorageError
from finf_core.scores import Floats, Ints
from finf_core.scoring import target_changes
from finf_core.spans import best_span
from tasks import storage
from tasks.bundles import Bundle, Line, make_bundle
from tasks.corpus import CorpusRow
from tasks.encode import ShownTokens, shown_tokens, windows_of
from tasks.items import picture_of
from tasks.job import ScanJob
from tasks.loaded_model import LoadedModel, TextModel
from tasks.queries import Query, query_excerpt, read_queries
from tasks.read_rows import read_rows
from tasks.row_text import row_text
from tasks.shown_rows import shown_bundles
from tasks.update_store import UpdateReader

MOST_CHARACTERS = 1500  # of a row
DAY = len("2026-11-26")
MARGIN = 150  # characters before the part that matters

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("text", pa.string()),  # the part of the row that is shown
        ("source", pa.string()),
        ("date", pa.string()),  # its first ten characters: the day, of a timestamp
        ("first_character", pa.int64()),  # where it stands in the row
        ("num_characters", pa.int64()),  # of the row
        ("spans", pa.list_(pa.list_(pa.int64(), 4))),  # shared words: start and stop in the query's excerpt, in `text`
        ("token_ends", pa.list_(pa.int32())),  # characters of `text`; the first token starts at 0
        ("token_ratios", pa.list_(pa.float32())),  # mirror ratio of each token; null: it has no loss
        ("picture", pa.large_binary()),  # PNG, of a row with an image
    ]
)


class Part(NamedTuple):
    """Of a text, in characters."""

    start: int
    stop: int


def explain_bundle(model: LoadedModel, job: ScanJob, bundle: Bundle, updates: UpdateReader) -> None:
    """Explain the rows of each query of the bundle and publish them as one object."""
    bundles = shown_bundles(job)
    lines_of = bundles.lines(bundle.query_ids)
    if bundle != make_bundle(bundle.query_ids, lines_of):
        raise StorageError(f"{job.shown_uri} was replaced while its rows were explained; run again")
    lines = [line for lines in lines_of.values() for line in lines]
    rows = {(unit.shard, row.row): row for unit, found in read_rows(model, job, lines) for row in found}
    query_of = {query.query_id: query for query in read_queries(job.queries_uri)}
    explained: list[dict[str, Any]] = []
    for query_id, lines in lines_of.items():
        shown = [rows[line["shard"], line["row"]] for line in lines]
        if isinstance(model, TextModel) and job.spec.kind != "memorize":
            explanations = _explain_text(model, job, query_of[query_id], lines, shown, updates)
        else:
            explanations = (_show_whole(row, model) for row in shown)
        for line, row, explanation in zip(lines, shown, explanations, strict=True):
            place = {name: line[name] for name in ("query_id", "shard", "row")}
            place |= {"source": row.source, "date": row.date and row.date[:DAY]}
            explained.append(place | explanation)
    storage.publish_table(bundles.uri(bundle), pa.Table.from_pylist(explained, SCHEMA))


def _show_whole(row: CorpusRow, model: LoadedModel) -> dict[str, Any]:
    """A row as it is, where there is nothing to mark in it."""
    text = row_text(row, model.tokenizer)
    whole = {"text": text[:MOST_CHARACTERS], "first_character": 0, "num_characters": len(text)}
    return whole | {"spans": [], "token_ends": [], "token_ratios": [], "picture": picture_of(row.item or {})}


def _explain_text(
    model: TextModel,
    job: ScanJob,
    query: Query,
    lines: Sequence[Line],
    shown: Sequence[CorpusRow],
    updates: UpdateReader,
) -> Iterator[dict[str, Any]]:
    tokens = [shown_tokens(model, row, line["shard"]) for row, line in zip(shown, lines, strict=True)]
    windows = [windows_of(model, job.spec.model, *each.tokens) for each in tokens]
    update = updates.read(query.digest)
    changes = target_changes(model.adapter, windows, update, model.batch_tokens)
    excerpt = query_excerpt(query).text
    for line, row, change_N in zip(lines, tokens, changes, strict=True):
        spans = shared_spans(excerpt, row.text)
        target_N = row.tokens.target_places()
        ratio_T = np.full(len(row.end_T), np.nan)
        ratio_T[target_N] = change_N / update.moved_nats
        is_copy = bool(spans) and line["shared"] is not None and line["shared"] >= job.spec.verdict.shared_from
        focus = _ends_of(spans) if is_copy else _best_part(row, target_N, best_span(change_N, update.num_targets))
        yield explain_part(row, ratio_T, spans, part_to_show(focus, len(row.text)))


def _ends_of(spans: Sequence[SharedSpan]) -> Part:
    return Part(spans[0].second_start, spans[-1].second_stop)


def _best_part(row: ShownTokens, target_N: Ints, span: tuple[int, int]) -> Part:
    """Where the targets of a span stand in the text."""
    first, last = target_N[span[0]], target_N[span[1] - 1]
    return Part(int(row.end_T[first - 1]), int(row.end_T[last]))


def part_to_show(focus: Part, num_characters: int) -> Part:
    """Up to `MOST_CHARACTERS` of a row: what matters, with a margin before it."""
    start = max(0, min(focus.start - MARGIN, num_characters - MOST_CHARACTERS))
    return Part(start, min(num_characters, start + MOST_CHARACTERS))


def explain_part(row: ShownTokens, ratio_T: Floats, spans: Sequence[SharedSpan], part: Part) -> dict[str, Any]:
    """The columns of `SCHEMA` that say something of a part of a row."""
    start_T = np.append(0, row.end_T[:-1])
    is_shown_T = (row.end_T > part.start) & (start_T < part.stop) & (row.end_T > start_T)
    within = [(each, max(each.second_start, part.start), min(each.second_stop, part.stop)) for each in spans]
    return {
        "text": row.text[part.start : part.stop],
        "first_character": part.start,
        "num_characters": len(row.text),
        "spans": [
            [each.first_start, each.first_stop, start - part.start, stop - part.start]
            for each, start, stop in within
            if start < stop
        ],
        "token_ends": (np.minimum(row.end_T[is_shown_T], part.stop) - part.start).tolist(),
        "token_ratios": [ratio if math.isfinite(ratio) else None for ratio in ratio_T[is_shown_T].tolist()],
    }
