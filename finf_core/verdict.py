"""Leaked or not, and how often that is wrong.

With control queries, which are known to be clean: a query's statistic (the largest `rank.by` of its rows) is compared
with theirs. If a clean query is exchangeable with the controls, its conformal p-value is below any u at most a share u
of the time, and Benjamini–Hochberg over the queries keeps the expected share of false ones among those called leaked
within `verdict.fdr`, on average over the draw of the controls (Bates et al. 2023, arXiv:2104.08279). A statistic may
depend on all queries and controls together, as `control_z` does, if it treats them alike (AdaDetect, Marandon et al.,
arXiv:2208.06685); leaked queries among the others cost power, not validity.
Beside that, a copy is a copy: a mirror ratio from `verdict.copied_from` on is called leaked too, and how many controls
reach it is said. Without controls that threshold is all there is, and no error rate is claimed.

Name suffixes: Q queries that are judged, C controls.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from finf_core.scores import Floats
from finf_core.spec import RankSpec, VerdictSpec

NO_ERROR_RATE = (
    "No control queries were given, so no error rate is claimed: the threshold is a convention, between an exact copy "
    "(1.00) and the largest ratios seen for unrelated rows. It finds copies, not rewordings; read the rows before you "
    "act."
)


@dataclass(frozen=True)
class Verdicts:
    p_value_Q: Floats  # NaN where there are no controls
    q_value_Q: Floats  # the smallest fdr at which the query is called leaked
    leaked_Q: list[bool]


@dataclass(frozen=True)
class Null:
    """What the controls reach: what is seen of queries that are known to be clean."""

    num_controls: int
    largest: float | None  # statistic
    num_copied: int  # controls whose mirror ratio reaches `verdict.copied_from`
    largest_ratio: float | None
    least_queries: int | None  # no fewer of the queries can be called leaked by their q-values, so few controls are


def decide(
    statistic_Q: Floats, ratio_Q: Floats, control_statistic_C: Floats, control_ratio_C: Floats, spec: VerdictSpec
) -> tuple[Verdicts, Null]:
    """The verdict of each query.

    Args:
        statistic_Q: NaN (no finite score) is less than any number; such a query is never called leaked.
        ratio_Q: the largest mirror ratio of each query.
    """
    copied_Q = ratio_Q >= spec.copied_from
    null = _null(len(statistic_Q), control_statistic_C, control_ratio_C, spec)
    if not null.num_controls:
        unknown_Q = np.full(len(statistic_Q), np.nan)
        return Verdicts(unknown_Q, unknown_Q, copied_Q.tolist()), null
    p_value_Q = conformal_p_values(statistic_Q, control_statistic_C)
    q_value_Q = false_discovery_control(p_value_Q, method="bh") if len(p_value_Q) else p_value_Q
    leaked_Q = (q_value_Q <= spec.fdr) | copied_Q
    return Verdicts(p_value_Q, q_value_Q, leaked_Q.tolist()), null


def conformal_p_values(statistic_Q: Floats, control_C: Floats) -> Floats:
    """(1 + controls that reach the query's statistic) / (1 + controls)."""
    sorted_C = np.sort(_or_lowest(control_C))
    reaching_Q = len(sorted_C) - np.searchsorted(sorted_C, _or_lowest(statistic_Q), side="left")
    return (1 + reaching_Q) / (1 + len(sorted_C))


def _or_lowest(values: Floats) -> Floats:
    return np.where(np.isnan(values), -np.inf, values)


def _null(num_queries: int, statistic_C: Floats, ratio_C: Floats, spec: VerdictSpec) -> Null:
    num_controls = len(statistic_C)
    # k queries beyond all controls have p = 1 / (1 + controls), and q = p · queries / k
    least = math.ceil(num_queries / (spec.fdr * (1 + num_controls)) - 1e-9)
    return Null(
        num_controls,
        _largest(statistic_C),
        int((ratio_C >= spec.copied_from).sum()),
        _largest(ratio_C),
        max(1, least) if num_controls else None,
    )


def _largest(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None


def verdict_rule(rank: RankSpec, spec: VerdictSpec, num_controls: int) -> str:
    copied = f"its largest mirror ratio is at least {spec.copied_from:.2f}"
    if not num_controls:
        return f"leaked when {copied}"
    return (
        f"leaked when its q-value is at most {spec.fdr:g} (largest {rank.by} against {num_controls:,} controls) or "
        f"{copied}"
    )


def verdict_note(null: Null, num_queries: int, spec: VerdictSpec) -> str:
    """What the rule promises, in plain words."""
    if not null.num_controls:
        return NO_ERROR_RATE
    sentences = [
        f"Of the queries with a q-value of at most {spec.fdr:g}, no more than a share of {spec.fdr:g} is expected to "
        f"be clean, if the {null.num_controls:,} controls are clean and otherwise like the queries.",
        f"Their own statistic is at most {'unknown' if null.largest is None else f'{null.largest:.2f}'}.",
        f"{null.num_copied:,} of the controls reach the mirror ratio of a copy "
        f"(their largest: {'none' if null.largest_ratio is None else f'{null.largest_ratio:.2f}'}).",
    ]
    if null.least_queries is not None and null.least_queries > 1:
        fewer = (
            f"can tell no fewer than {null.least_queries:,} leaked queries from clean ones by their q-values"
            if null.least_queries <= num_queries
            else "can call no query leaked by its q-value"
        )
        sentences.append(f"So few controls {fewer}; {math.ceil(num_queries / spec.fdr) - 1:,} could tell a single one.")
    return " ".join(sentences)
