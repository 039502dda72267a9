"""The report of a run of kind "mislabel": the worst suspects as cards, and how they spread over the classes.

Name suffixes: N rows of the corpus.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finf_core.spec import CorpusSpec
from tasks import storage
from tasks.job import ScanJob
from tasks.queries import read_queries
from tasks.report_queries import Section, evidence_of_rows

MOST_PAIRS = 15
MOST_CLASSES = 100
HOW_TO = (
    "Look at the first cards. Where the suggested label is right, correct it; where neither is, remove the row. Go "
    "down the list until most rows are fine, train again on what is left, and run again: harm is told by the model "
    "that was trained with the wrong labels, and the next one sees more. All rows: suspects.parquet."
)
DOUBTED = "doubted"  # harmful, and the model would give another label


def mislabelled(job: ScanJob) -> dict[str, Any]:
    """The parts of the report that are the answer."""
    suspects, queries = storage.read_table(job.suspects_uri), read_queries(job.queries_uri)
    doubted = suspects.filter(_is_doubted(suspects))
    num_items = sum(len(query.items) for query in queries)
    noun = "query" if len(queries) == 1 else "queries"
    return {
        "headline": f"{len(suspects):,} rows by harm to {num_items:,} clean rows; {len(doubted):,} labels are doubted",
        "note": f"Harm: nats that a row gains for each nat that the clean rows ({len(queries):,} {noun}) lose, when "
        "the model unlearns these by a small step: what is good for the one is bad for the others. A label is doubted "
        "where harm is positive and the model would give another one. That is a hint, not a count of wrong labels.",
        "tables": [table for table in (_classes(suspects, job.spec.corpus), _pairs(doubted, job.spec.corpus)) if table],
        "groups": [_worst(suspects, job)],
    }


def _is_doubted(suspects: pa.Table) -> pa.ChunkedArray:
    disagrees = pc.not_equal(suspects["label"], suspects["suggested_label"])
    return pc.and_(pc.greater(suspects["harm"], 0.0), disagrees)


def _classes(suspects: pa.Table, corpus: CorpusSpec) -> Section:
    """How many rows of each class are doubted."""
    marked = suspects.select(["label", "harm", "loss_nats"]).append_column(DOUBTED, _is_doubted(suspects))
    measures = [(DOUBTED, "count"), (DOUBTED, "sum"), ("harm", "mean"), ("loss_nats", "mean")]
    counted = marked.group_by("label").aggregate(measures).sort_by("label")
    rows = [
        [
            corpus.label_name(line["label"]),
            line["doubted_count"],
            line["doubted_sum"],
            f"{line['doubted_sum'] / line['doubted_count']:.1%}",
            line["harm_mean"],
            line["loss_nats_mean"],
        ]
        for line in counted.slice(0, MOST_CLASSES).to_pylist()
    ]
    return {
        "title": "Suspects by class",
        "note": "Of all rows, under the label that they have."
        + (f" The first {MOST_CLASSES} classes of {len(counted):,}." if len(counted) > MOST_CLASSES else ""),
        "columns": ["label", "rows", "doubted", "share", "mean harm", "mean loss (nats)"],
        "rows": rows,
    }


def _pairs(doubted: pa.Table, corpus: CorpusSpec) -> Section | None:
    """Which labels are taken for which: a habit of the labellers stands out here."""
    if not len(doubted):
        return None
    counted = doubted.group_by(["label", "suggested_label"]).aggregate([("label", "count"), ("harm", "mean")])
    order = [("label_count", "descending"), ("label", "ascending"), ("suggested_label", "ascending")]
    lines = counted.sort_by(order).slice(0, MOST_PAIRS).to_pylist()
    return {
        "title": "Labels that are taken for one another",
        "note": "Doubted rows by the label that they have and the one that the model would give, most frequent first.",
        "columns": ["label", "suggested", "rows", "share of the doubted", "mean harm"],
        "rows": [
            [
                corpus.label_name(line["label"]),
                corpus.label_name(line["suggested_label"]),
                line["label_count"],
                f"{line['label_count'] / len(doubted):.1%}",
                line["harm_mean"],
            ]
            for line in lines
        ],
    }


def _worst(suspects: pa.Table, job: ScanJob) -> Section:
    """The cards, with the pictures that were read again."""
    evidence = evidence_of_rows(job)
    shown = suspects.slice(0, job.spec.rank.top_k).to_pylist()
    cards = [
        _card(row, evidence.get((row["shard"], row["row"]), {}), job.spec.corpus) for row in shown if row["harm"] > 0
    ]
    note = f"The {len(cards):,} most harmful of {len(suspects):,} rows, worst first. {HOW_TO}"
    return {
        "title": "Worst suspects",
        "text": "",
        "pictures": [],
        "num_items": 1,
        "facts": {},
        "lists": [{"title": "Rows that hurt the clean ones", "note": note, "cards": cards}] if cards else [],
    }


def _card(row: Mapping[str, Any], evidence: Mapping[str, Any], corpus: CorpusSpec) -> Section:
    given, suggested = corpus.label_name(row["label"]), corpus.label_name(row["suggested_label"])
    probability = row["suggested_probability"]
    says = f"{suggested} ({probability:.0%} sure)" if row["label"] != row["suggested_label"] else "the same"
    return {
        "title": row["document_id"],
        "shard": row["shard"],
        "row": row["row"],
        "source": evidence.get("source"),
        "value": row["harm"],
        "facts": {"label": given, "model": says, "loss": row["loss_nats"], "outlier": row["outlier"]},
        "text": None,
        "picture": evidence.get("picture"),
    }
