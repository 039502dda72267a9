"""Leaked or not, and how often that is wrong.

With control queries, which are known to be clean: a query's statistic (the largest `rank.by` of its rows) is compared
with theirs. If a clean query is exchangeable with the controls, its conformal p-value is below any u at most a share u
of the time, and Benjamini–Hochberg over the queries keeps the expected share of false ones among those called leaked
within `verdict.fdr`, on average over the draw of the controls (Bates et al. 2023, arXiv:2104.08279). A statistic may
depend on all queries and controls together, as `control_z` does, if it treats them alike (AdaDetect, Marandon et al.,
arXiv:2208.06685); leaked queries among the others cost power, not validity.
Beside that, a copy is a copy: a mirror ratio from `verdict.learned_from` on counts as learned too, and how many
controls reach it is said. Without controls that threshold is all there is, and no error rate is claimed.

What the model learned is one question, what the corpus holds another: a query is copied when one row shares enough of
its n-grams (`verdict.copied_from`), whatever the model does. Either way it leaked.

Name suffixes: Q queries that are judged, C controls.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import false_discovery_control

from finf_core.scores import Floats
from finf_core.spec import RankSpec, VerdictSpec

NO_ERROR_RATE = (
    "No control queries were given, so no error rate is claimed: the threshold is a convention, between an exact copy "
    "(1.00) and the largest ratios seen for unrelated rows. It finds copies, not rewordings; read the rows before you "
    "act."
)


Outcome = Literal["copied_learned", "rephrased_learned", "copied_not_learned", "neither"]


@dataclass(frozen=True)
class Statistics:
    """What queries are judged by: the largest of each query's rows; NaN where there is none."""

    rank_by: Floats  # `rank.by`: what controls judge
    mirror_ratio: Floats
    shared: Floats  # share of the query's n-grams

    def of(self, queries: slice) -> "Statistics":
        return Statistics(self.rank_by[queries], self.mirror_ratio[queries], self.shared[queries])


@dataclass(frozen=True)
class Verdicts:
    p_value_Q: Floats  # NaN where there are no controls
    q_value_Q: Floats  # the smallest fdr at which the query is called learned
    learned_Q: list[bool]  # the model shows it
    copied_Q: list[bool]  # the corpus holds it

    @property
    def outcome_Q(self) -> list[Outcome]:
        return [outcome(*each) for each in zip(self.copied_Q, self.learned_Q, strict=True)]


def outcome(copied: bool, learned: bool) -> Outcome:
    if learned:
        return "copied_learned" if copied else "rephrased_learned"
    return "copied_not_learned" if copied else "neither"


@dataclass(frozen=True)
class Null:
    """What the controls reach: what is seen of queries that are known to be clean."""

    num_controls: int
    largest: float | None  # statistic
    num_learned: int  # controls whose mirror ratio reaches `verdict.learned_from`
    largest_ratio: float | None
    num_copied: int  # controls whose n-grams reach `verdict.copied_from`
    least_queries: int | None  # no fewer of the queries can be called leaked by their q-values, so few controls are


def decide(queries: Statistics, controls: Statistics, spec: VerdictSpec) -> tuple[Verdicts, Null]:
    """The verdict of each query.

    Args:
        queries: a `rank_by` that is NaN (no finite score) is less than any number: such a query is not learned.
    """
    learned_Q = queries.mirror_ratio >= spec.learned_from
    copied_Q = (queries.shared >= spec.copied_from).tolist()
    null = _null(len(learned_Q), controls, spec)
    if not null.num_controls:
        unknown_Q = np.full(len(learned_Q), np.nan)
        return Verdicts(unknown_Q, unknown_Q, learned_Q.tolist(), copied_Q), null
    p_value_Q = conformal_p_values(queries.rank_by, controls.rank_by)
    q_value_Q = false_discovery_control(p_value_Q, method="bh") if len(p_value_Q) else p_value_Q
    learned_Q |= q_value_Q <= spec.fdr
    return Verdicts(p_value_Q, q_value_Q, learned_Q.tolist(), copied_Q), null


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
        int((controls.mirror_ratio >= spec.learned_from).sum()),
        _largest(controls.mirror_ratio),
        int((controls.shared >= spec.copied_from).sum()),
        max(1, least) if num_controls else None,
    )


def _largest(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None


def verdict_rule(rank: RankSpec, spec: VerdictSpec, num_controls: int) -> str:
    learned = f"its largest mirror ratio is at least {spec.learned_from:.2f}"
    if num_controls:
        q_value = f"its q-value is at most {spec.fdr:g} (largest {rank.by} against {num_controls:,} controls)"
        learned = f"{q_value} or {learned}"
    if not rank.lexical_k:
        return f"leaked when {learned}"
    share = f"one row holds {spec.copied_from:.0%} of its {rank.ngram_words}-word sequences"
    return f"leaked when the model learned it ({learned}) or the corpus holds a copy ({share})"


def verdict_note(null: Null, num_queries: int, spec: VerdictSpec) -> str:
    """What the rule promises, in plain words."""
    if not null.num_controls:
        return NO_ERROR_RATE
    sentences = [
        f"Of the queries with a q-value of at most {spec.fdr:g}, no more than a share of {spec.fdr:g} is expected to "
        f"be clean, if the {null.num_controls:,} controls are clean and otherwise like the queries.",
        f"Their own statistic is at most {'unknown' if null.largest is None else f'{null.largest:.2f}'}.",
        f"{null.num_learned:,} of the controls reach the mirror ratio of a copy "
        f"(their largest: {'none' if null.largest_ratio is None else f'{null.largest_ratio:.2f}'}), "
        f"{null.num_copied:,} share as many words with a row as one.",
    ]
    if null.least_queries is not None and null.least_queries > 1:
        fewer = (
            f"can tell no fewer than {null.least_queries:,} leaked queries from clean ones by their q-values"
            if null.least_queries <= num_queries
            else "can call no query leaked by its q-value"
        )
        sentences.append(f"So few controls {fewer}; {math.ceil(num_queries / spec.fdr) - 1:,} could tell a single one.")
    return " ".join(sentences)
