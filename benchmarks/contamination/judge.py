"""The same verdict for every method, and how good it is.

A query's statistic is the score of its best row. Its conformal p-value comes from the controls of its stratum, and it
is called leaked where Benjamini–Hochberg over the stratum's queries says so (`finf_core.verdict`). Beside it stands the
F1 of the threshold that is best for the very queries it is judged on: no method can say that its controls held it back.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from benchmarks.contamination.inputs import CLEAN, CONTROL, Truth
from benchmarks.contamination.rankings import Rankings
from benchmarks.contamination.settings import CODE, MATHS, STRATUM
from finf_core.metrics import auc
from finf_core.scores import Floats
from finf_core.verdict import conformal_p_values

RATES = (0.01, 0.05)  # false discovery rates

Statistics = Mapping[str, float]  # of each query and control
PValues = Mapping[str, float]  # of each query


@dataclass(frozen=True)
class Method:
    """What a method says of every query and control that it was asked about."""

    statistics: Statistics
    p_values: PValues
    rankings: Rankings | None = None  # None where it orders no rows
    also_called: Set[str] = frozenset()  # whatever their p-values

    def called(self, fdr: float, truths: Mapping[str, Truth]) -> set[str]:
        """Leaked, by Benjamini–Hochberg in each stratum on its own."""
        found = set(self.also_called)
        for stratum in (CODE, MATHS):
            mine = {query: p for query, p in self.p_values.items() if STRATUM[truths[query].benchmark] == stratum}
            found |= called_leaked(mine, fdr)
        return found


def judged(rankings: Rankings, truths: Mapping[str, Truth]) -> Method:
    """By the score of each query's best row."""
    statistics = {query: rows[0].score if rows else 0.0 for query, rows in rankings.items()}
    return Method(statistics, p_values(statistics, truths), rankings)


def p_values(statistics: Statistics, truths: Mapping[str, Truth]) -> dict[str, float]:
    """Of all queries that are no controls, by the controls of their stratum."""
    found: dict[str, float] = {}
    for stratum in (CODE, MATHS):
        mine = [query for query in statistics if STRATUM[truths[query].benchmark] == stratum]
        asked = [query for query in mine if truths[query].kind != CONTROL]
        control_C = np.array([statistics[query] for query in mine if truths[query].kind == CONTROL])
        p_Q = conformal_p_values(np.array([statistics[query] for query in asked]), control_C)
        found |= dict(zip(asked, p_Q.tolist(), strict=True))
    return found


def union(first: PValues, second: PValues) -> dict[str, float]:
    """p-values of "leaked by either": twice the smaller, which is valid however the two depend on each other."""
    return {query: min(1.0, 2 * min(first[query], second[query])) for query in first}


def called_leaked(values: PValues, fdr: float) -> set[str]:
    """By Benjamini–Hochberg over all of these."""
    if not values:
        return set()
    q_values = false_discovery_control(np.array(list(values.values())), method="bh")
    return {query for query, q_value in zip(values, q_values, strict=True) if q_value <= fdr}


def f1(called: Set[str], leaked: Sequence[str], clean: Sequence[str]) -> dict[str, Any]:
    """Precision, recall and F1 over these queries; precision is None where nothing was called."""
    true, false = len(called & set(leaked)), len(called & set(clean))
    return {
        "precision": true / (true + false) if true + false else None,
        "recall": true / len(leaked),
        "f1": 2 * true / (true + false + len(leaked)),
    }


def oracle_f1(statistics: Statistics, leaked: Sequence[str], clean: Sequence[str]) -> float:
    """F1 of the best threshold on the statistic, chosen on the truth; the least value of all calls nothing."""
    least = min(statistics[query] for query in (*leaked, *clean))
    thresholds = {statistics[query] for query in leaked} - {least}
    scores = [
        f1({query for query in (*leaked, *clean) if statistics[query] >= threshold}, leaked, clean)["f1"]
        for threshold in thresholds
    ]
    return max(scores, default=0.0)


def area(statistics: Statistics, leaked: Sequence[str], clean: Sequence[str]) -> float:
    values: Floats = np.array([statistics[query] for query in (*leaked, *clean)])
    return auc(values, np.arange(len(values)) < len(leaked))


def recall_at(rankings: Rankings, truths: Mapping[str, Truth], leaked: Sequence[str], k: int) -> float:
    """Share of the leaks of which a planted row is among the first k."""
    hits = [
        any(row.document_id in truths[query].document_ids for row in rankings.get(query, ())[:k]) for query in leaked
    ]
    return sum(hits) / len(hits)


def grade(method: Method, truths: Mapping[str, Truth], benchmark: str, kinds: Set[str]) -> dict[str, Any]:
    """One cell of the table: leaks of these kinds among the clean queries of the same benchmark."""
    leaked, clean = queries_of(method, truths, {benchmark}, kinds)
    found: dict[str, Any] = {"num_leaked": len(leaked), "num_clean": len(clean)}
    found |= {f"at_{rate:g}": f1(method.called(rate, truths), leaked, clean) for rate in RATES}
    found |= {"oracle_f1": oracle_f1(method.statistics, leaked, clean), "auc": area(method.statistics, leaked, clean)}
    if method.rankings is not None:
        found |= {f"recall_at_{k}": recall_at(method.rankings, truths, leaked, k) for k in (1, 5)}
    return found


def queries_of(
    method: Method, truths: Mapping[str, Truth], benchmarks: Set[str], kinds: Set[str]
) -> tuple[list[str], list[str]]:
    """Leaks of these kinds, and clean queries."""
    mine = [query for query in method.statistics if truths[query].benchmark in benchmarks]
    leaked = [query for query in mine if truths[query].kind in kinds]
    return leaked, [query for query in mine if truths[query].kind == CLEAN]
