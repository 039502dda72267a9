"""The group check for any adapter: rows in groups, half of them spoilt, and finf's own scores of the groups.

Name suffix: N training rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from finf_core.adapter import Adapter
from finf_core.curvature import fit_curvature
from finf_core.scores import influence_score, row_ratio
from finf_core.scoring import score_rows
from finf_core.spec import UpdateSpec
from finf_core.updates import mirrored_update
from tasks.progress import Meter
from tasks.verification.agreement import Floats
from tasks.verification.groups import Groups, Kept
from tasks.verification.images import Ints
from tasks.verification.mislabelled import draw_groups
from tasks.verification.products import Arrays, Products

AdapterKind = Literal["classifier", "diffusion", "causal_lm"]
Row = Sequence[Any]  # its examples


@dataclass(frozen=True)
class AdapterSettings:
    kind: AdapterKind
    num_rows: int
    num_test: int
    num_epochs: int
    learning_rate: float
    group_share: float = 0.25  # of the rows; half, as in the paper, can be all rows that are not spoilt
    num_groups: int = 20
    num_inits: int = 5
    seed: int = 42
    update: UpdateSpec = field(default_factory=UpdateSpec)


class Material(NamedTuple):
    """What is trained on, and how."""

    rows: Sequence[Row]
    is_spoilt_N: Kept
    test: Sequence[Row]
    train: Callable[[Sequence[Row], int], Adapter]  # on these rows, from weights of this seed
    batch_tokens: int
    digest: str  # of the data that rows and test items are drawn from


class AdapterCheck:
    """One run: its only stage, and what it found."""

    def __init__(self, settings: AdapterSettings, material: Material, products: Products) -> None:
        self.products = products
        self.groups = Groups(ScoredGroups(settings, material), settings.num_inits, settings.seed, products)

    def stages(self, meter: Meter) -> list[tuple[str, Callable[[], object]]]:
        return [("train on groups", lambda: self.groups.train_all(meter))]

    def result(self) -> dict[str, Any]:
        return self.groups.result()


class ScoredGroups:
    """A `tasks.verification.groups.GroupProblem`."""

    def __init__(self, settings: AdapterSettings, material: Material) -> None:
        self.settings, self.material, self.num_rows = settings, material, len(material.rows)
        self.shares = np.linspace(0, 1, settings.num_groups)
        generator, size = np.random.default_rng(settings.seed), int(settings.group_share * self.num_rows)
        self.groups: Sequence[Ints] = draw_groups(material.is_spoilt_N, self.shares, generator, size)

    def measure(self, kept_N: Kept, with_test: bool, seed: int) -> Arrays:
        rows, test = self.material.rows, self.material.test
        kept = [rows[place] for place in np.flatnonzero(kept_N).tolist()]
        adapter = self.material.train([*kept, *test] if with_test else kept, seed)
        nats = {"rows": self._mean_nats(adapter, rows), "test": self._mean_nats(adapter, test)}
        return nats | {"scores": self._scores(adapter)} if kept_N.all() and not with_test else nats

    def _mean_nats(self, adapter: Adapter, rows: Sequence[Row]) -> Floats:
        losses = score_rows(adapter, rows, [], self.material.batch_tokens)
        return losses.base_nats_R / losses.num_targets_R

    def _scores(self, adapter: Adapter) -> Floats:
        """Nats per target that each group's rows lose for each that the test group, as one query, loses; (G,)."""
        rows, spec, batch_tokens = self.material.rows, self.settings.update, self.material.batch_tokens
        curvature = fit_curvature(adapter, rows, spec, batch_tokens)
        query = [example for row in self.material.test for example in row]
        update = mirrored_update(adapter, query, spec, curvature)
        losses = score_rows(adapter, rows, [update], batch_tokens)
        scores_N1 = influence_score(losses.base_nats_R[:, None], losses.mirrored_nats_RQ, spec.direction)
        ratio_N = row_ratio(scores_N1, losses.num_targets_R, np.array([update.moved_nats]))[:, 0]
        return np.array([ratio_N[group].mean() for group in self.groups])
