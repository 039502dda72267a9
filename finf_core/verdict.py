"""Leaked or not, and how often that is wrong.

With control queries, which are known to be clean: a query's statistic (the largest `rank.by` of its rows) is compared
with theirs. If a clean query is exchangeable with the controls, its conformal p-value is below any u at most a share u
of the time, and Benjamini–Hochberg over the queries keeps the expected share of false ones among those called leaked
within `verdict.fdr`, on average over the draw of the controls (Bates et al. 2023, arXiv:2104.08279). A statistic may
depend on all queries and controls together, as `control_z` does, if it treats them alike (AdaDetect, Marandon et al.,
arXiv:2208.06685); leaked queries among the others cost power, not validity.
Two questions, then:

- *Does the corpus hold it?* Copied: one row has as many of the query's n-grams (`verdict.shared_from`) or as large a
  mirror ratio (`verdict.copied_from`) as a copy has. Rephrased: no such row, but its statistic stands out from the
  controls' (q-value). A copy needs no error rate, but how many controls are copied, too, is said.
- *Did the model learn it?* A reworded row stands out only because the model sees what both have in common. A copy has
  a mirror ratio of 1 whether the model learned it or not, so there the loss is asked: whether the model predicts the
  query better than it predicts controls (conformal p-values again, Benjamini–Hochberg over the copied queries).

Without controls neither a reworded leak nor what was learned can be told, and no error rate is claimed.

Name suffixes: Q queries that are judged, C controls.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finf_core.scores import Floats
from finf_core.spec import RankSpec, VerdictSpec

NO_ERROR_RATE = (
    "No control queries were given, so no error rate is claimed: the threshold is a convention, between an exact copy "
    "(1.00) and the largest ratios seen for unrelated rows. It finds copies, not rewordings; read the rows before you "
    "act."
)


Outcome = Literal["copied_learned", "copied_not_learned", "copied", "rephrased_learned", "neither"]


@dataclass(frozen=True)
class Statistics:
    """What queries are judged by: the largest of each query's rows (NaN where there is none), and its own loss."""

    rank_by: Floats  # `rank.by`: what stands out from controls
    mirror_ratio: Floats
    shared: Floats  # share of the query's n-grams
    nats: Floats  # per target, of the base model

    def of(self, queries: slice) -> "Statistics":
        return Statistics(self.rank_by[queries], self.mirror_ratio[queries], self.shared[queries], self.nats[queries])


@dataclass(frozen=True)
class Verdicts:
    """Of each query. Without controls p- and q-values are NaN; those of the loss also where it is not copied."""

    p_value_Q: Floats
    q_value_Q: Floats  # the smallest fdr at which the query is called leaked by its statistic
    loss_p_value_Q: Floats
    loss_q_value_Q: Floats  # the smallest fdr at which a copied query is called learned
    outcome_Q: list[Outcome]

    @property
    def leaked_Q(self) -> list[bool]:
        return [outcome != "neither" for outcome in self.outcome_Q]


@dataclass(frozen=True)
class Null:
    """What the controls reach: what is seen of queries that are known to be clean."""

    num_controls: int
    largest: float | None  # statistic
    num_copied: int  # controls whose mirror ratio reaches `verdict.copied_from`
    largest_ratio: float | None
    num_shared: int  # controls whose n-grams reach `verdict.shared_from`
    least_queries: int | None  # no fewer of the queries can be called leaked by their q-values, so few controls are


def decide(queries: Statistics, controls: Statistics, spec: VerdictSpec) -> tuple[Verdicts, Null]:
    """The verdict of each query.

    Args:
        queries: a `rank_by` that is NaN (no finite score) is less than any number: such a query is not learned.
    """
    num_queries = len(queries.rank_by)
    copied_Q = (queries.mirror_ratio >= spec.copied_from) | (queries.shared >= spec.shared_from)
    null = _null(num_queries, controls, spec)
    p_value_Q, loss_p_value_Q = np.full((2, num_queries), np.nan)
    if null.num_controls:
        p_value_Q = conformal_p_values(queries.rank_by, controls.rank_by)
        loss_p_value_Q[copied_Q] = conformal_p_values(-queries.nats[copied_Q], -controls.nats)
    q_value_Q, loss_q_value_Q = _q_values(p_value_Q), _q_values(loss_p_value_Q)
    judged = zip(copied_Q.tolist(), (q_value_Q <= spec.fdr).tolist(), loss_q_value_Q.tolist(), strict=True)
    outcomes = [_outcome(copied, stands_out, loss_q, spec.fdr) for copied, stands_out, loss_q in judged]
    return Verdicts(p_value_Q, q_value_Q, loss_p_value_Q, loss_q_value_Q, outcomes), null


def _q_values(p_value_Q: Floats) -> Floats:
    """Benjamini–Hochberg over those that are known."""
    from scipy.stats import false_discovery_control  # half a second, which no actor need wait for

    q_value_Q = p_value_Q.copy()
    is_known_Q = ~np.isnan(p_value_Q)
    if is_known_Q.any():
        q_value_Q[is_known_Q] = false_discovery_control(p_value_Q[is_known_Q], method="bh")
    return q_value_Q


def _outcome(copied: bool, stands_out: bool, loss_q_value: float, fdr: float) -> Outcome:
    if not copied:
        return "rephrased_learned" if stands_out else "neither"
    if math.isnan(loss_q_value):
        return "copied"
    return "copied_learned" if loss_q_value <= fdr else "copied_not_learned"


def conformal_p_values(statistic_Q: Floats, control_C: Floats) -> Floats:
    """(1 + controls that reach the query's statistic) / (1 + controls)."""
    sorted_C = np.sort(_or_lowest(control_C))
    reaching_Q = len(sorted_C) - np.searchsorted(sorted_C, _or_lowest(statistic_Q), side="left")
    return (1 + reaching_Q) / (1 + len(sorted_C))


def _or_lowest(values: Floats) -> Floats:
    return np.where(np.isnan(values), -np.inf, values)


def _null(num_queries: int, controls: Statistics, spec: VerdictSpec) -> Null:
    num_controls = len(controls.rank_by)
    # k queries beyond all controls have p = 1 / (1 + controls), and q = p · queries / k
    least = math.ceil(num_queries / (spec.fdr * (1 + num_controls)) - 1e-9)
    return Null(
        num_controls,
        _largest(controls.rank_by),
        int((controls.mirror_ratio >= spec.copied_from).sum()),
        _largest(controls.mirror_ratio),
        int((controls.shared >= spec.shared_from).sum()),
        max(1, least) if num_controls else None,
    )


def _largest(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None


def verdict_rule(rank: RankSpec, spec: VerdictSpec, num_controls: int) -> str:
    reasons = [f"its largest mirror ratio is at least {spec.copied_from:.2f}"]
    if rank.lexical_k:
        reasons.append(f"one row holds {spec.shared_from:.0%} of its {rank.ngram_words}-word sequences")
    if num_controls:
        q_value = f"its q-value is at most {spec.fdr:g} (largest {rank.by} against {num_controls:,} controls)"
        reasons.insert(0, q_value)
    return f"leaked when {' or '.join(reasons)}"


def verdict_note(null: Null, num_queries: int, spec: VerdictSpec) -> str:
    """What the rule promises, in plain words."""
    if not null.num_controls:
        return NO_ERROR_RATE
    sentences = [
        f"Of the queries with a q-value of at most {spec.fdr:g}, no more than a share of {spec.fdr:g} is expected to "
        f"be clean, if the {null.num_controls:,} controls are clean and otherwise like the queries.",
        f"Their own statistic is at most {'unknown' if null.largest is None else f'{null.largest:.2f}'}.",
        f"{null.num_copied:,} of the controls reach the mirror ratio of a copy "
        f"(their largest: {'none' if null.largest_ratio is None else f'{null.largest_ratio:.2f}'}), "
        f"{null.num_shared:,} share as many words with a row.",
    ]
    if null.least_queries is not None and null.least_queries > 1:
        fewer = (
            f"can tell no fewer than {null.least_queries:,} leaked queries from clean ones by their q-values"
            if null.least_queries <= num_queries
            else "can call no query leaked by its q-value"
        )
        sentences.append(f"So few controls {fewer}; {math.ceil(num_queries / spec.fdr) - 1:,} could tell a single one.")
    return " ".join(sentences)
