"""Score single queries on the rows that a first pass kept for them: the same numbers as `every_query` gives these rows.

On the actor. What the rows cost the base model is known from the first pass; where its cache is lost, it is taken anew.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from finf_core.errors import StorageError
from finf_core.lexical import LexicalIndex, QueryText, WordCounts
from finf_core.ranking import rank_rows
from finf_core.scores import Floats, Others
from finf_core.scoring import BaseNats, score_rows
from finf_core.top_k import CANDIDATES, merge_top
from finf_core.updates import MirroredUpdate
from tasks import storage
from tasks.base_losses import base_uri, read_base
from tasks.bundles import SECONDS_KEY, Bundle, Line, kept_bundles, make_bundle
from tasks.candidates import candidates_table
from tasks.corpus import CorpusRow
from tasks.count_words import read_word_counts
from tasks.encode import encode_corpus_rows
from tasks.job import ScanJob
from tasks.keep_rows import Place
from tasks.loaded_model import ItemModel, LoadedModel
from tasks.queries import Query, read_queries
from tasks.read_rows import read_rows
from tasks.row_text import row_text
from tasks.update_store import UpdateReader


class KeptRow(NamedTuple):
    row: CorpusRow
    windows: list[Any]  # or the item that it is
    base_nats_N: Floats | None  # of its targets, where they are known


def rescore_bundle(model: LoadedModel, job: ScanJob, bundle: Bundle, updates: UpdateReader) -> None:
    """Score each query of the bundle on its rows and publish the best of them as one object."""
    started = time.monotonic()
    lines_of = kept_bundles(job).lines(bundle.query_ids)
    if bundle != make_bundle(bundle.query_ids, lines_of):
        raise StorageError(f"{job.candidates_uri} was replaced while its rows were scored; run again")
    rows = _read_rows(model, job, [line for lines in lines_of.values() for line in lines])
    counts = read_word_counts(job) if job.spec.rank.lexical_k else None
    query_of = {query.query_id: query for query in read_queries(job.queries_uri)}
    tables = [
        _score_query(model, job, query_of[query_id], lines, rows, updates.read(query_of[query_id].digest), counts)
        for query_id, lines in lines_of.items()
    ]
    best = merge_top([CANDIDATES.empty_table(), *tables], job.spec.rank)
    seconds = str(time.monotonic() - started).encode()
    storage.publish_table(kept_bundles(job).uri(bundle), best.replace_schema_metadata({SECONDS_KEY: seconds}))


def _score_query(
    model: LoadedModel,
    job: ScanJob,
    query: Query,
    lines: Sequence[Line],
    rows: Mapping[Place, KeptRow],
    update: MirroredUpdate,
    counts: WordCounts | None,
) -> pa.Table:
    kept = [rows[line["shard"], line["row"]] for line in lines]
    windows = [row.windows for row in kept]
    losses = score_rows(model.adapter, windows, [update], model.batch_tokens, base=_known_base(kept, model))
    others = Others(*(_column(lines, name) for name in ("others_mean", "others_spread")))
    moved_Q, num_targets_Q = np.array([update.moved_nats]), np.array([update.num_targets])
    overlap = None
    if counts is not None:
        index = LexicalIndex([QueryText(query.context, query.target)], job.spec.rank.ngram_words, counts)
        overlap = index.overlap([row_text(row.row, model.tokenizer) for row in kept])
    ranked = rank_rows(losses, moved_Q, num_targets_Q, job.update.direction, job.spec.rank, others, overlap)
    shards = [line["shard"] for line in lines]
    return candidates_table(shards, [row.row for row in kept], ranked, [query.query_id], model.tokenizer)


def _known_base(kept: Sequence[KeptRow], model: LoadedModel) -> BaseNats | None:
    """The rows' base losses; None where one of them is not known, or does not fit its windows.

    They come from another batch plan. In coarse weights that is another rounding, so there they are taken anew.
    """
    nats = [row.base_nats_N for row in kept if row.base_nats_N is not None]
    if isinstance(model, ItemModel):
        num_targets_E = [len(each) for each in nats]
    else:
        num_targets_E = [window.num_targets for row in kept for window in row.windows]
    if model.is_coarse or len(nats) < len(kept) or sum(map(len, nats)) != sum(num_targets_E):
        return None
    return BaseNats(np.concatenate(nats), np.array(num_targets_E, dtype=np.int64))


def _column(lines: Sequence[Line], name: str) -> Floats:
    """(R, 1); NaN where nothing is known."""
    return np.array([[np.nan if line[name] is None else line[name]] for line in lines], dtype=np.float64)


def _read_rows(model: LoadedModel, job: ScanJob, lines: Sequence[Line]) -> dict[Place, KeptRow]:
    rows: dict[Place, KeptRow] = {}
    for unit, found in read_rows(model, job, lines):
        windows = encode_corpus_rows(model, job.spec.model, found, unit.shard)
        one_pass = job.first_pass.kind == "one_pass"
        base = read_base(base_uri(model, job, unit, with_gradients=one_pass))
        for row, each in zip(found, windows, strict=True):
            nats_N = None if base is None else base.of_row(row.row)
            rows[unit.shard, row.row] = KeptRow(row, each, nats_N)
    return rows
