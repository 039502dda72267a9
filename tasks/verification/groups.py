"""Groups of training rows left out against a test group added: the paper's non-convex check, for any kind of model.

Half of the rows are spoilt (mislabelled, say); the groups differ in their share of these, from none to all. Every set
of rows is trained on several times, from other initial weights, and losses are means over these trainings.

Name suffixes: N training rows, T test items, G groups, S sets of rows, I trainings of one set.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from finf_core.metrics import CONFIDENCE, pearson, spearman
from tasks.progress import Meter
from tasks.verification.agreement import Floats
from tasks.verification.images import Ints
from tasks.verification.products import Arrays, Products

NUM_RESAMPLES = 400
TAILS = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]

Kept = npt.NDArray[np.bool_]


class GroupProblem(Protocol):
    """Rows in groups, a test group, and what a training on some of them gives."""

    shares: Floats  # (G,): of spoilt rows
    groups: Sequence[Ints]
    num_rows: int

    def measure(self, kept_N: Kept, with_test: bool, seed: int) -> Arrays:
        """Train on the rows kept, and on the test group or not.

        Returns:
            `rows` (N,) and `test` (T,): the loss of each row, left out or not, and of each test item. Where finf's own
            scores are checked too, also `scores` (G,) of the groups by a model of all rows.
        """


class _Nats(NamedTuple):
    """After every training: losses of the test group, and of each row where all rows were there; finf's scores."""

    test_SI: Floats  # the sets are the groups left out, then all rows, then all with the test group
    all_IN: Floats
    with_IN: Floats
    scores_IG: Floats | None


class Groups:
    """One run: the sets of rows, their trainings, and the correlations over the groups."""

    def __init__(self, problem: GroupProblem, num_inits: int, seed: int, products: Products) -> None:
        self.problem, self.num_inits, self.seed, self.products = problem, num_inits, seed, products

    def train_all(self, meter: Meter) -> None:
        """Every set of rows, `num_inits` times; what an earlier run left is used again."""
        work = [(name, init) for name in self._sets() for init in range(self.num_inits)]
        done = [self.products.has(_product(name, init)) for name, init in work]
        meter.start("train on groups", len(work), "trainings", sum(done))
        for (name, init), is_done in zip(work, done, strict=True):
            if not is_done:
                self.products.once(_product(name, init), functools.partial(self._measure, name, init))
                meter.advance(1)

    def result(self) -> dict[str, Any]:
        """Correlations over the groups of loss differences, with bootstrap intervals over the trainings of each set.

        A resample of so few trainings is noisier than all of them: the intervals reach too low rather than too high.

        Returns:
            Those of the two sides, `left_out_nats` and `added_nats`; where the problem has scores, also
            `scores_against_left_out`, `scores_against_added` and `scores`.
        """
        nats, generator = self._nats(), np.random.default_rng(self.seed)
        all_SI = np.tile(np.arange(self.num_inits), (len(nats.test_SI), 1))
        draws = [generator.integers(0, self.num_inits, all_SI.shape) for _ in range(NUM_RESAMPLES)]
        whole, *resampled = [self._sides(nats, inits_SI) for inits_SI in (all_SI, *draws)]
        found = self._agreement("left_out", "added", whole, resampled)
        for side in ("left_out", "added") if "scores" in whole else ():
            found[f"scores_against_{side}"] = self._agreement(side, "scores", whole, resampled)
        named = {"left_out": "left_out_nats", "added": "added_nats", "scores": "scores"}
        return found | {named[side]: of_groups.tolist() for side, of_groups in whole.items()}

    def _agreement(
        self, first: str, second: str, whole: dict[str, Floats], resampled: Sequence[dict[str, Floats]]
    ) -> dict[str, Any]:
        found: dict[str, Any] = self._correlations(whole[first], whole[second])
        spreads = [self._correlations(sides[first], sides[second]) for sides in resampled]
        for name in tuple(found):
            found[f"{name}_interval"] = np.quantile([spread[name] for spread in spreads], TAILS).tolist()
        return found

    def _correlations(self, first_G: Floats, second_G: Floats) -> dict[str, float]:
        """`…_given_share`: of what is left when a cubic in the share of spoilt rows is taken away."""
        pair = first_G[:, None], second_G[:, None]
        shares = self.problem.shares
        curves = [np.polynomial.Polynomial.fit(shares, part[:, 0], 3)(shares)[:, None] for part in pair]
        rest = pair[0] - curves[0], pair[1] - curves[1]
        return {
            "pearson": float(pearson(*pair)[0]),
            "spearman": float(spearman(*pair)[0]),
            "pearson_given_share": float(pearson(*rest)[0]),
            "spearman_given_share": float(spearman(*rest)[0]),
        }

    def _sides(self, nats: _Nats, inits_SI: Ints) -> dict[str, Floats]:
        """Loss of the test group without each group − with it, and of each group without the test group − with it.

        Args:
            inits_SI: which trainings of each set count; each difference is one of means over them.
        """
        *without_G, of_all, _ = np.take_along_axis(nats.test_SI, inits_SI, axis=1).mean(axis=1)
        change_N = nats.all_IN[inits_SI[-2]].mean(axis=0) - nats.with_IN[inits_SI[-1]].mean(axis=0)
        added_G = np.array([change_N[group].mean() for group in self.problem.groups])
        sides = {"left_out": np.array(without_G) - of_all, "added": added_G}
        return sides if nats.scores_IG is None else sides | {"scores": nats.scores_IG[inits_SI[-2]].mean(axis=0)}

    def _nats(self) -> _Nats:
        inits = range(self.num_inits)
        kept = [[self.products.read(_product(name, init)) for init in inits] for name in self._sets()]
        test_SI = np.array([[arrays["test"].mean(dtype=np.float64) for arrays in of_set] for of_set in kept])
        all_IN, with_IN = (np.stack([arrays["rows"] for arrays in of_set]).astype(np.float64) for of_set in kept[-2:])
        has_scores = "scores" in kept[-2][0]
        scores_IG = np.stack([arrays["scores"] for arrays in kept[-2]]) if has_scores else None
        return _Nats(test_SI, all_IN, with_IN, scores_IG)

    def _sets(self) -> list[str]:
        return [*(f"group-{g:02d}" for g in range(len(self.problem.groups))), "all", "with"]

    def _measure(self, name: str, init: int) -> Arrays:
        number = self._sets().index(name)
        kept_N = np.ones(self.problem.num_rows, dtype=bool)
        if number < len(self.problem.groups):
            kept_N[self.problem.groups[number]] = False
        seed = np.random.SeedSequence([self.seed, number, init]).generate_state(1)[0]
        return self.problem.measure(kept_N, name == "with", int(seed))


def _product(name: str, init: int) -> str:
    return f"{name}-init-{init}"
