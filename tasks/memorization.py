"""The report of a run of kind "memorize": the rows of each class that hang most on themselves, groups of doubles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finf_core.spec import CorpusSpec
from tasks import storage
from tasks.job import ScanJob
from tasks.memorized import MOST_CLASSES, group_scores, labels_of, rows_to_show
from tasks.near_duplicates import is_too_large
from tasks.report_queries import Section, evidence_of_rows

MOST_GROUPS = 20


def memorization(job: ScanJob) -> dict[str, Any]:
    """The parts of the report that are the answer."""
    rows = _in_medians(storage.read_table(job.memorized_uri))
    groups = storage.read_table(job.groups_uri)
    num_groups = len(groups["query_id"].unique())
    evidence = evidence_of_rows(job)
    found = (
        "no groups of near-duplicates were sought" if is_too_large(job) else f"{num_groups:,} groups of near-duplicates"
    )
    return {
        "headline": f"{len(rows):,} rows by self-influence; {found}",
        "note": "Self-influence: how fast a row's own loss rises when the model unlearns the row itself, as a multiple "
        "of the median row's. Large: the model knows the row for its own sake (rare, atypical, mislabelled). Small: "
        "others speak for it. memorized.parquet holds every row, in nats per target and unit of step.",
        "tables": [table for table in (_classes(rows, job.spec.corpus), _doubles(groups, rows, job)) if table],
        "groups": [_group(name, some, job.spec.corpus, evidence) for name, some in rows_to_show(rows, job.spec)],
    }


def _classes(rows: pa.Table, corpus: CorpusSpec) -> Section | None:
    labels = labels_of(rows)
    if not labels:
        return None
    of_label = {label: rows.filter(pc.equal(rows["label"], label)) for label in labels[:MOST_CLASSES]}
    return {
        "title": "Self-influence by class",
        "note": "In multiples of the median of all rows. A share of 0.5 says that the first tenth of a class's rows "
        "holds half of its self-influence.",
        "columns": ["label", "rows", "median", "largest", "share of the first tenth"],
        "rows": [[corpus.label_name(label), len(table), *_spread(table)] for label, table in of_label.items()],
    }


def _spread(table: pa.Table) -> list[float]:
    values_N = np.sort(table["multiple"].to_numpy())[::-1]
    first = values_N[: max(1, len(values_N) // 10)].sum()
    return [float(np.median(values_N)), float(values_N[0]), float(first / values_N.sum()) if values_N.sum() else 0.0]


def _doubles(groups: pa.Table, rows: pa.Table, job: ScanJob) -> Section | None:
    """Groups by what they are together, beside what their rows are alone."""
    scores = group_scores(job)
    if not len(scores):
        return None
    of_place = dict(zip(_places(rows), rows.select(["document_id", "label", "multiple"]).to_pylist(), strict=True))
    members: dict[str, list[tuple[str, int]]] = {}
    for group, place in zip(groups["query_id"].to_pylist(), _places(groups), strict=True):
        members.setdefault(group, []).append(place)
    lines = scores.slice(0, MOST_GROUPS).to_pylist()
    return {
        "title": "Near-duplicates taken together",
        "note": "What the rows of a group lose for each unit of step when all of them are unlearned at once, beside "
        "the largest that one of them loses alone: doubles hide each other. Doubles under different labels are worth a "
        "look: at most one of these is right.",
        "columns": ["rows of the group", "count", "labels", "together", "largest alone"],
        "rows": [
            _double(line, [of_place[place] for place in members[line["group"]]], rows, job.spec.corpus)
            for line in lines
        ],
    }


def _double(
    line: Mapping[str, Any], members: Sequence[Mapping[str, Any]], rows: pa.Table, corpus: CorpusSpec
) -> list[Any]:
    labels = dict.fromkeys(each["label"] for each in members if each["label"] is not None)
    together, alone = line["self_influence"] / _median(rows), max(each["multiple"] for each in members)
    names = [each["document_id"] for each in members]
    return [_list(names), len(members), ", ".join(map(corpus.label_name, labels)), together, alone]


def _in_medians(rows: pa.Table) -> pa.Table:
    """With another column, `multiple`: self-influence over the median of all rows."""
    return rows.append_column("multiple", pc.divide(rows["self_influence"], _median(rows)))


def _median(rows: pa.Table) -> float:
    """Of all rows' self-influence; 1 where more than half of them have none."""
    return float(np.median(rows["self_influence"].to_numpy())) or 1.0 if len(rows) else 1.0


def _places(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")


def _group(name: str, table: pa.Table, corpus: CorpusSpec, evidence: Mapping[tuple[str, int], Section]) -> Section:
    cards = [_card(row, evidence.get((row["shard"], row["row"]), {})) for row in table.to_pylist()]
    note = "The rows of largest self-influence, largest first."
    return {
        "title": name,
        "text": "",
        "pictures": [],
        "num_items": 1,
        "facts": {},
        "lists": [{"title": "Atypical rows", "note": note, "cards": cards}] if cards else [],
    }


def _card(row: Mapping[str, Any], evidence: Mapping[str, Any]) -> Section:
    facts: dict[str, Any] = {"loss per target": row["loss_nats"] / row["num_targets"]}
    return {
        "title": row["document_id"],
        "shard": row["shard"],
        "row": row["row"],
        "source": evidence.get("source"),
        "value": row["multiple"],
        "facts": facts | {"gradient": row["gradient_norm"]},
        "text": None if evidence.get("picture") else evidence.get("text"),
        "picture": evidence.get("picture"),
    }
