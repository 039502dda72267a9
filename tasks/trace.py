"""The rows behind each fact, by the model and by words, and how often they are the true ones, as a gallery's sections.

top.parquet holds the `rank.top_k` rows that the model puts first and the `rank.lexical_k` that BM25 does: a ranking
ends there, and what it does not list was not found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from finf_core.alignment import same_words
from finf_core.fusion import fuse_rankings
from finf_core.recall import rank_of
from tasks.attribution import card
from tasks.count_words import read_word_counts
from tasks.evaluation.grade import Ranked, grade
from tasks.job import ScanJob
from tasks.report_queries import Section, asked_queries, rows_of_queries
from tasks.true_rows import Truth, read_truth

MODEL, WORDS, BOTH = "model", "words", "both"
TITLES = {MODEL: "finf", WORDS: "BM25", BOTH: "both, by reciprocal rank fusion"}
BY_MODEL = "Unlearning the fact hurts these rows most."
BY_WORDS = "These match the words of the query best, and the model's list does not have them."
AGAINST = "Unlearning the fact helps these rows: they pull the model the other way."
TRUE_ROW = "states this fact"
IN_MOST_ROWS = 0.1  # share of the rows from which a word is not marked: any two sentences have it in common

Place = tuple[str, int]  # shard, row


@dataclass(frozen=True)
class Traced:
    """The rows kept for one query, and three orders of them."""

    query: Section
    row_at: Mapping[Place, Section]
    orders: Mapping[str, Sequence[Place]]  # of MODEL, WORDS, BOTH; best first
    against: Sequence[Place]

    @property
    def query_id(self) -> str:
        return str(self.query["title"])

    def num_agreed(self) -> int:
        """Rows that model and words both list."""
        return len(set(self.orders[MODEL]) & set(self.orders[WORDS]))


def trace(job: ScanJob) -> dict[str, Any]:
    """The parts of the report that are the answer: measures where a truth is given, and a group for each query."""
    rows_of, truth = rows_of_queries(job), read_truth(job)
    found = [_traced(query, rows_of.get(query["title"], []), job) for query in asked_queries(job)]
    measures = {} if truth is None else measure(found, truth, job.spec.truth.recall_at)
    tables = [] if truth is None else [_measure_table(measures, found, truth), _first_table(found, truth)]
    ignored = _words_in_most_rows(job)
    return {
        "headline": _headline(found, measures),
        "note": f"Rows are ordered by {job.spec.rank.by}: what a row loses when the model unlearns the fact by a small "
        "step. BM25 reads the words alone: prompt and answer. A row that the model leans on need not state the fact.",
        "summary": {"num_queries": len(found), **measures},
        "tables": tables,
        "groups": [_group(each, truth, job, ignored) for each in found],
    }


def measure(found: Sequence[Traced], truth: Truth, recall_at: Sequence[int]) -> dict[str, Any]:
    """measure -> order -> mean over the queries that have true rows (`tasks.evaluation.grade`)."""
    graded = {}
    for order in (MODEL, WORDS, BOTH):
        keys = {each.query_id: [truth.key(each.row_at[at]) for at in each.orders[order]] for each in found}
        ranked = {query_id: Ranked([key for key in of if key is not None], 0.0) for query_id, of in keys.items()}
        graded[order] = grade(ranked, truth.rows_of, recall_at)
    names = [name for name in graded[MODEL] if name != "auc"]  # nothing tells queries with and without truth apart here
    return {name: {order: graded[order][name] for order in graded} for name in names}


def _traced(query: Section, rows: Sequence[Section], job: ScanJob) -> Traced:
    rank = job.spec.rank
    row_at = {(row["shard"], row["row"]): row for row in rows}
    scored = [place for place, row in row_at.items() if row[rank.by] is not None]  # in their order
    with_words = [place for place, row in row_at.items() if row["bm25"]]
    by_model = [place for place in scored if row_at[place][rank.by] > 0][: rank.top_k]
    by_words = sorted(with_words, key=lambda place: (-row_at[place]["bm25"], place))[: rank.lexical_k]
    against = [place for place in reversed(scored) if row_at[place][rank.by] < 0][: rank.opponents_k]
    orders = {MODEL: by_model, WORDS: by_words, BOTH: fuse_rankings([by_model, by_words])}
    return Traced(query, row_at, orders, against)


def _words_in_most_rows(job: ScanJob) -> set[str]:
    if not job.spec.rank.lexical_k:
        return set()
    counts = read_word_counts(job)
    return {word for word, num in counts.rows_of_word.items() if num > IN_MOST_ROWS * counts.num_rows}


def _group(traced: Traced, truth: Truth | None, job: ScanJob, ignored: set[str]) -> Section:
    orders = traced.orders
    only_words = [place for place in orders[WORDS] if place not in set(orders[MODEL])]
    lists = [
        ("By the model", BY_MODEL, orders[MODEL]),
        ("By words alone", BY_WORDS, only_words),
        ("Opponents", AGAINST, traced.against),
    ]
    make = partial(_card, traced, truth, job.spec.rank.by, ignored)
    num_true = {} if truth is None else {"true rows": str(len(truth.rows_of.get(traced.query_id, ())))}
    facts = traced.query["facts"] | num_true | {"rows on both lists": str(traced.num_agreed())}
    return traced.query | {
        "facts": facts,
        "lists": [{"title": title, "note": note, "cards": list(map(make, at))} for title, note, at in lists if at],
    }


def _card(traced: Traced, truth: Truth | None, by: str, ignored: set[str], place: Place) -> Section:
    row = traced.row_at[place]
    made = card(row, by)
    if made["evidence"]:
        made["evidence"]["spans"] = same_words(traced.query["text"], made["text"], ignored)
    is_true = truth is not None and truth.holds(traced.query_id, row)
    places = {f"place by {order}": _place_text(rank_of(traced.orders[order], place)) for order in (MODEL, WORDS)}
    return made | {"facts": places | made["facts"], "badge": TRUE_ROW if is_true else None}


def _measure_table(measures: Mapping[str, Any], found: Sequence[Traced], truth: Truth) -> Section:
    num = sum(each.query_id in truth.rows_of for each in found)
    return {
        "title": "How often the true row is found",
        "note": f"Means over {num:,} {'query' if num == 1 else 'queries'} whose true rows are known. MRR: 1 / place of "
        "the first true row; recall@k: share of the true rows among the first k.",
        "columns": ["order", *(name.replace("_at_", "@").replace("mrr", "MRR") for name in measures)],
        "rows": [[TITLES[order], *(of[order] for of in measures.values())] for order in (MODEL, WORDS, BOTH)],
    }


def _first_table(found: Sequence[Traced], truth: Truth) -> Section:
    return {
        "title": "Where model and words disagree",
        "note": "The place of the first true row on each list; —: it is not listed.",
        "columns": ["query", "base loss", "true rows", "finf", "BM25", "rows on both lists"],
        "rows": [
            [
                each.query_id,
                each.query["facts"]["base loss"],
                str(len(truth.rows_of[each.query_id])),
                *(_first_true(each, truth, order) for order in (MODEL, WORDS)),
                str(each.num_agreed()),
            ]
            for each in found
            if each.query_id in truth.rows_of
        ],
    }


def _first_true(traced: Traced, truth: Truth, order: str) -> str:
    is_true = [truth.holds(traced.query_id, traced.row_at[place]) for place in traced.orders[order]]
    return _place_text(rank_of(is_true, True))


def _place_text(place: int | None) -> str:
    return "—" if place is None else str(place)


def _headline(found: Sequence[Traced], measures: Mapping[str, Any]) -> str:
    facts = f"{len(found):,} {'fact' if len(found) == 1 else 'facts'}"
    if not measures:
        return f"The rows behind {facts}"
    mrr = measures["mrr"]
    return (
        f"The rows behind {facts}: MRR {mrr[MODEL]:.2f} by the model, {mrr[WORDS]:.2f} by words, {mrr[BOTH]:.2f} both"
    )
