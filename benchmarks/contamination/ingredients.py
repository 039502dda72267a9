"""What could a verdict rest on? Statistics of a query from what a scan lists of it, beside the one that is shipped.

Each treats queries and controls alike, so its conformal p-values are valid. Several are compared on the truth: the best
of a table of ten is a little better than it will be elsewhere. `weighed together` is fair to that: its weights come
from one half of the items and judge the other.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.contamination.finf_scan import Line
from benchmarks.contamination.inputs import CLEAN, CONTROL, Truth
from benchmarks.contamination.judge import Method, p_values
from benchmarks.contamination.lexical import words
from benchmarks.contamination.rankings import Found, Rankings
from finf_core.scores import Floats

LEAST_Z = 0.1  # below it a z-score is noise, and its logarithm nothing to reckon with
LEAST_RATIO, LEAST_SHARE = 0.005, 0.05
SAME_WORDS = 0.5  # of the words of two excerpts: doubles of each other
NUM_NEXT, NUM_TAIL = 4, 12

Rows = Sequence[Line]  # of one query, best `control_z` first


def largest(column: str) -> Callable[[Rows, Line], float]:
    return lambda rows, query: max(row[column] for row in rows)


def gap(rows: Rows, query: Line) -> float:
    """How far the best row stands above the next four."""
    z = _log_z(rows)
    return float(z[0] - z[1 : 1 + NUM_NEXT].mean())


def gap_below_doubles(rows: Rows, query: Line) -> float:
    """The same, above the next four that are not doubles of the best: a leak that stands twice keeps its gap."""
    best = set(words(rows[0]["text_excerpt"]))
    others = [row for row in rows[1:] if _overlap(best, set(words(row["text_excerpt"]))) < SAME_WORDS]
    return gap([rows[0], *others], query) if others else 0.0


def tail(rows: Rows, query: Line) -> float:
    """The gap in units of the mean gap between the following rows (Hill 1975): without scale and without exponent."""
    z = _log_z(rows)[: NUM_TAIL + 1]
    return float((z[0] - z[-1]) / (z[1:-1].mean() - z[-1] + 0.1))


def low_loss(rows: Rows, query: Line) -> float:
    """The query's own loss: what was learned is cheap. It reads no row."""
    return -float(query["base_nats"] / query["num_targets"])


STATISTICS: Mapping[str, Callable[[Rows, Line], float]] = {
    "largest control_z (shipped)": largest("control_z"),
    "largest mirror_ratio": largest("mirror_ratio"),
    "largest row_ratio": largest("row_ratio"),
    "gap to the next four": gap,
    "gap below doubles": gap_below_doubles,
    "gap in units of the tail": tail,
    "low loss of the query": low_loss,
}


def statistics_of(rows: Mapping[str, Rows], queries: Mapping[str, Line]) -> dict[str, dict[str, float]]:
    """Statistic -> query -> value."""
    return {
        name: {query: statistic(lines, queries[query]) for query, lines in rows.items()}
        for name, statistic in STATISTICS.items()
    }


def by_product(rows: Mapping[str, Rows], lexical: Rankings | None = None) -> dict[str, list[Found]]:
    """Rows by control_z × mirror_ratio: both must speak for one row.

    With `lexical`, its share of the query's n-grams is a third factor. A row that only the lexical method lists has the
    least z and the least ratio that the scan lists.
    """
    found = {}
    for query, lines in rows.items():
        z = {line["document_id"]: max(line["control_z"], LEAST_Z) for line in lines}
        ratio = {line["document_id"]: max(line["mirror_ratio"], LEAST_RATIO) for line in lines}
        shared = {row.document_id: row.score for row in lexical[query]} if lexical else {}
        least = min(z.values()) * min(ratio.values())
        products = []
        for row in sorted({*z, *shared}):
            product = z[row] * ratio[row] if row in z else least
            products.append(Found(row, product * (LEAST_SHARE + shared.get(row, 0.0) if lexical else 1.0)))
        found[query] = sorted(products, key=lambda row: -row.score)
    return found


def weighed_together(statistics: Mapping[str, Mapping[str, float]], truths: Mapping[str, Truth]) -> Method:
    """Logistic regression on the statistics, leaked against clean.

    Each half of the queries is judged by weights that were fitted on the other half; so are all controls, once for each
    half, and none is ever fitted on.
    """
    queries = sorted(next(iter(statistics.values())))
    values_QF = np.array([[each[query] for each in statistics.values()] for query in queries])
    values_QF = (values_QF - values_QF.mean(axis=0)) / (values_QF.std(axis=0) + 1e-9)
    kinds = [truths[query].kind for query in queries]
    is_control, is_clean = (np.array([kind == which for kind in kinds]) for which in (CONTROL, CLEAN))
    half_Q = np.arange(len(queries)) % 2
    logits: dict[str, float] = {}
    values: dict[str, float] = {}
    for half in (0, 1):
        fitted_on = ~is_control & (half_Q != half)
        model = LogisticRegression(class_weight="balanced").fit(values_QF[fitted_on], ~is_clean[fitted_on])
        logit_Q = values_QF @ model.coef_[0] + model.intercept_[0]
        judged_here = is_control | (half_Q == half)
        mine = {query: float(logit_Q[place]) for place, query in enumerate(queries) if judged_here[place]}
        logits |= mine
        values |= p_values(mine, truths)
    return Method(logits, values)


def _log_z(rows: Rows) -> Floats:
    return np.log(np.maximum([row["control_z"] for row in rows], LEAST_Z))


def _overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / max(1, min(len(first), len(second)))
